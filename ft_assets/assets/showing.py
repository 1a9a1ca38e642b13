"""Metadata a person looks at in the Dagster UI: tables, schemas and plots."""

import base64
import importlib
import re
import threading
from collections.abc import Iterable
from typing import Any

import dagster as dg

MARKUP = re.compile(r"[\\`*_{}\[\]()#+!<>|~&:-]")


def counts_table(label: str, counts: dict[str, int], unit: str = "rows") -> dg.TableMetadataValue:
    schema = dg.TableSchema([dg.TableColumn(label, "string"), dg.TableColumn(unit, "int")])
    return dg.MetadataValue.table([dg.TableRecord({label: key, unit: value}) for key, value in counts.items()], schema)


def table_schema(columns: dict[str, str]) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])


def bullets(texts: Iterable[str]) -> dg.MarkdownMetadataValue:
    """Texts as a list; what would be a link or a picture in Markdown stays text."""
    return dg.MetadataValue.md("\n".join(f"- {MARKUP.sub(_escaped, ' '.join(text.split()))}" for text in texts))


def _escaped(sign: re.Match[str]) -> str:
    return f"\\{sign[0]}"


def import_plots() -> None:
    """Imports what plots are drawn with, beside what goes on: while a worker works, this process has nothing to do."""
    threading.Thread(target=importlib.import_module, args=["ft_assets.report.plots"], daemon=True).start()


def image(plot: str, *data: Any) -> dg.MarkdownMetadataValue:
    """A plot of :mod:`ft_assets.report.plots` as a PNG inside Markdown, which the UI shows."""
    from ft_assets.report import plots

    return picture(plot, getattr(plots, plot)(*data))


def picture(name: str, figure: Any) -> dg.MarkdownMetadataValue:
    """A figure as :func:`image` shows it."""
    from ft_assets.report import plots

    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(plots.png(figure)).decode()})")
