"""How ``ft run`` keeps Dagster's book."""

import os
import sys

import psutil
import pytest

from ft_assets.automation.runs import _process_name


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="moves Linux's notion of the boot time")
def test_setting_the_clock_renames_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux keeps the moment of the boot in wall-clock time; setting the clock moves it, and every start time with it."""
    name, booted = _process_name(os.getpid()), psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted - 3600)
    assert _process_name(os.getpid()) == name


def test_a_process_that_is_gone_has_no_name() -> None:
    child = psutil.Popen([sys.executable, "-c", ""])
    child.wait()
    assert _process_name(child.pid) == ""
