"""Pure functions of the graph: identity, artifacts, rows, splits, the plan and the metrics. No Dagster, no torch."""
