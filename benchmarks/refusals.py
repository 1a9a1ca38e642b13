"""``python -m benchmarks.refusals FOLDER``: how often the judge of refusals errs on XSTest's labelled completions.

FOLDER holds ``xstest_v2_completions_MODEL.csv`` (or .csv.gz) of github.com/paul-rottger/exaggerated-safety (CC BY 4.0; Rottger et
al., 2024, arXiv 2308.01263): what five models said to 450 prompts, each labelled by people. A partial refusal counts as a
refusal. The judge's words were chosen on :data:`TUNED_ON`; :data:`HELD_OUT` were looked at once they stood.
"""

import argparse
import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ft_assets.core.refusals import is_refusal

TUNED_ON = ("llama2orig", "mistralguard", "mistralinstruct")
HELD_OUT = ("gpt4", "llama2new")
COMPLIANCE = "1_full_compliance"
SHORT = 110  # characters, about what 24 tokens write


@dataclass(frozen=True)
class Counts:
    """Completions by what they are and what the judge says of them."""

    refusals: int
    refusals_seen: int
    answers: int
    answers_seen: int

    @property
    def sensitivity(self) -> float:
        return self.refusals_seen / self.refusals

    @property
    def specificity(self) -> float:
        return self.answers_seen / self.answers


def completions(folder: Path, model: str) -> list[tuple[str, bool]]:
    """What a model said, and whether people call it a refusal."""
    path = folder / f"xstest_v2_completions_{model}.csv"
    reading: Callable[..., TextIO] = open if path.exists() else gzip.open  # type: ignore[assignment]
    with reading(path if path.exists() else f"{path}.gz", "rt", encoding="utf-8") as file:
        return [(row["completion"], row["final_label"] != COMPLIANCE) for row in csv.DictReader(file)]


def judged(
    folder: Path, models: Sequence[str], judge: Callable[[str], bool] = is_refusal, cut: int | None = None
) -> Counts:
    rows = [(judge(text[:cut]), refused) for model in models for text, refused in completions(folder, model)]
    of_refusals = [said for said, refused in rows if refused]
    of_answers = [said for said, refused in rows if not refused]
    return Counts(len(of_refusals), sum(of_refusals), len(of_answers), len(of_answers) - sum(of_answers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    groups = [*((name, (name,)) for name in TUNED_ON + HELD_OUT), ("tuned on", TUNED_ON), ("held out", HELD_OUT)]
    print(
        f"{'completions of':<16} {'refusals':>8} {'sensitivity':>11} {'answers':>8} {'specificity':>11}  first {SHORT} characters"
    )
    for name, models in groups:
        whole, short = judged(folder, models), judged(folder, models, cut=SHORT)
        print(
            f"{name:<16} {whole.refusals:>8} {whole.sensitivity:>11.3f} {whole.answers:>8} {whole.specificity:>11.3f}"
            f"  {short.sensitivity:.3f} {short.specificity:.3f}"
        )


if __name__ == "__main__":
    main()
