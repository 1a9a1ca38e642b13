"""Laws of hiding a library: an import says that it is not there, as long as the block lasts."""

import subprocess
import sys

import pytest

from ft_assets.core.absent import absent

VALIDATES = """
import sys
from pathlib import Path
import polars
from ft_assets.core.absent import absent
with absent("pandas"):
    from ft_assets.core.rows import validate_batch
    from ft_assets.recipes.schema import Source
    source = Source(kind="instruction", location="x", format="alpaca", licence="MIT")
    rows = Path(sys.argv[1])
    counts = validate_batch("rows", source, {"rows.jsonl": rows}, rows.parent)
print(counts.kept, dict(sorted(counts.reasons.items())), "pandas" in sys.modules)
"""


def test_a_library_is_absent_within_the_block_alone(tmp_path, monkeypatch):
    (tmp_path / "once_there.py").write_text("here = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with absent("once_there"), pytest.raises(ModuleNotFoundError, match="No module named 'once_there'"):
        import once_there
    import once_there

    assert once_there.here
    with absent("once_there"):  # what is imported stays
        import once_there
    monkeypatch.delitem(sys.modules, "once_there")


def test_rows_are_validated_the_same_without_pandas(tmp_path):
    lines = ['{"instruction": "a question", "output": "an answer"}', '{"instruction": "", "output": "b"}', "{"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines * 2))
    command = [sys.executable, "-c", VALIDATES, str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1 {'empty': 2, 'exact_duplicate': 1, 'malformed': 2} False\n"
