"""What the figures in the README and the docs were printed by."""
