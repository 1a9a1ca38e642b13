"""What launchers print of a worker's output, however much and whatever it is."""

import tracemalloc
from pathlib import Path

import pytest

from resources.launching import PrintedLog

MIB = 2**20


def test_much_output_takes_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = PrintedLog(tmp_path)
    with (tmp_path / "output.log").open("wb") as stream:
        stream.seek(64 * MIB)
        stream.write(b"the end")
    with capsys.disabled(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", Counted())
        tracemalloc.start()
        log.show()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert Counted.letters == 64 * MIB + 7
    assert peak < 16 * MIB


class Counted:
    """A terminal that keeps nothing."""

    letters = 0

    def write(self, text: str) -> None:
        Counted.letters += len(text)

    def flush(self) -> None:
        pass


def test_output_that_is_no_text_is_shown_as_what_it_may_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = PrintedLog(tmp_path)
    log.show()
    (tmp_path / "output.log").write_bytes("caf\u00e9".encode()[:-1])
    log.show()
    with (tmp_path / "output.log").open("ab") as stream:
        stream.write("\u00e9".encode()[1:] + b"\xff\0\n")
    log.show()
    assert capsys.readouterr().out == "caf\u00e9\N{REPLACEMENT CHARACTER}\0\n"
