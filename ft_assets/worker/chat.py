"""``python -m ft_assets.worker.chat REQUEST``: a talk with a model, on the terminal or through a pipe.

Each line of standard input is asked, each answer written to standard output as it comes. Ends with 0 at ``/quit`` or where the
input ends, with 2 for something the user can mend, with 130 where it is interrupted while it waits for a line, and by the
signal where it is interrupted while it loads.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ft_assets.core.errors import FineTuneError
from ft_assets.worker.job import Job

if TYPE_CHECKING:
    from ft_assets.worker.talk import Labels, Talk

HELP = "/reset forgets what was said, /quit leaves, Ctrl-C stops an answer"


def main(request: str) -> int:
    # Ctrl-C ends what loads at once: as an exception, libraries would show it as a fault of theirs, or swallow it. `ft chat`
    # hands it over blocked, since Python starts, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    job = Job.of(json.loads(request))
    live = sys.stdin.isatty() and sys.stdout.isatty()
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        talk = _loaded(job, live)
        for line in _lines(live):
            if line == "/quit":
                break
            if line == "/reset":
                talk.reset()
            elif line:
                talk.ask(line)
    except FineTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # nobody reads any more; Python would say so once again as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _loaded(job: Job, live: bool) -> "Talk | Labels":
    if live:
        print(f"loading {job.execution['title']} ...", file=sys.stderr, flush=True)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of faster kernels, whatever model is loaded
    from ft_assets.worker.talk import begin

    talk = begin(job)
    if live:
        print(HELP, file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return talk


def _lines(live: bool) -> Iterator[str]:
    if not live:
        yield from (line.strip() for line in sys.stdin)
        return
    import readline  # noqa: F401  (input() edits a line with it)

    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            print()
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
