"""A worker ends with what started it, also where that has gone before the worker could ask to be told."""

import os
import subprocess
import sys

import psutil
import pytest
from conftest import ROOT

ASKS = (
    "from ft_assets.worker.job import die_with_parent; die_with_parent(); import os; print('FT_PARENT' in os.environ)"
)


@pytest.mark.parametrize(("parent", "said", "code"), [(None, "False\n", 0), ("own", "False\n", 0), ("gone", "", 1)])
def test_one_whose_parent_has_gone_ends_at_once(parent: str | None, said: str, code: int) -> None:
    ids = {"own": os.getpid(), "gone": max(psutil.pids()) + 100_000}
    told = {"FT_PARENT": str(ids[parent])} if parent else {}
    done = subprocess.run(
        [sys.executable, "-c", ASKS], env={**os.environ, **told}, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == (said, code)
