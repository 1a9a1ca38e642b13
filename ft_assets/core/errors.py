"""Errors a person can act on."""

from dataclasses import dataclass

# A worker's exit code when it was asked to end and kept its work (EX_TEMPFAIL of sysexits.h: try again).
STOPPED = 75


class FineTuneError(Exception):
    """Something the user can mend; its text names the thing, what was found and what to do."""


@dataclass(frozen=True)
class Problem:
    """One fault of a recipe or source file: where it stands, what was found and what is allowed."""

    file: str
    line: int
    field: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: found {self.found}; allowed: {self.allowed}"


class RecipeError(FineTuneError):
    """A recipe that cannot be used; carries every problem found, not the first."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class CorruptArtifact(FineTuneError):
    """A file of a finished artifact is not what its manifest says."""


class MissingInput(FineTuneError):
    """A stage was asked for whose input has not been made."""


class Stopped(FineTuneError):
    """A worker that was asked to end and wrote a checkpoint; running it again resumes."""


class WorkerFailed(FineTuneError):
    """A worker process ended without its artifact; carries its last lines."""


class Diverged(FineTuneError):
    """The loss or the gradient of a training is no longer a finite number."""
