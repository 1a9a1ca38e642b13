"""The search that a recipe may open for the settings of its SFT: over what, in how many trials, and how they end early."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from ft_assets.recipes.strict import Strict

PARTS = ("sft", "adapter")
Value = int | float | str | bool


class Space(Strict):
    """What one field may be: a number from ``low`` to ``high`` or one of ``choices``.

    ``log`` draws evenly over orders of magnitude; ``step`` is the distance of the numbers that are tried, any (or any
    whole one, where the field is a whole number) without it.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None
    choices: Annotated[list[Value], Field(min_length=2, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _is_range_or_choices(self) -> "Space":
        if self.choices is not None:
            if (self.low, self.high, self.log, self.step) != (None, None, False, None):
                raise ValueError("choices stand alone, without low, high, log and step")
            if len({(type(choice), choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("choices names one value twice")
        elif self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        elif self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        elif self.log and (self.step is not None or self.low <= 0):
            raise ValueError("log wants low above 0 and no step")
        return self

    def ends(self) -> list[Value]:
        """Values that are allowed where all of the space is: bounds of fields are ranges too."""
        return list(self.choices or [number for number in (self.low, self.high) if number is not None])

    def whole_numbers(self) -> list[int]:
        """Every value of a field that is a whole number."""
        if self.choices is not None or self.low is None or self.high is None:
            return [int(choice) for choice in self.choices or []]
        return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))


class Search(Strict):
    """A space for each field that is searched, under the part of the recipe it stands in; other fields stay as they are."""

    sft: dict[str, Space] = {}
    adapter: dict[str, Space] = {}

    @model_validator(mode="after")
    def _searches_something(self) -> "Search":
        if not self.sft and not self.adapter:
            raise ValueError("search names no field; give one under sft or adapter")
        return self


class Sweep(Strict):
    """Optuna's search for the settings of ``sft`` that leave the least loss on its validation rows (``eval_loss``).

    The first ``n_startup_trials`` draw at random; those after them are drawn by a tree-structured Parzen estimator (TPE).
    A trial measures its loss every ``eval_steps`` (a share of its own steps, so that trials of different length
    compare). ``pruner: median`` ends one whose least loss so far is above the median, at the same share, of the trials that
    were complete when it started, once there are ``n_startup_trials`` of them.
    """

    search: Search
    n_trials: Annotated[int, Field(ge=1, le=10_000)]
    n_startup_trials: Annotated[int, Field(ge=1, le=10_000)]
    eval_steps: Annotated[float, Field(ge=0.01, lt=1)]
    pruner: Literal["median", "none"]

    def spaces(self) -> dict[str, Space]:
        """Each searched field's space by its dotted name, in an order that does not hang on how the recipe was written."""
        return {
            f"{part}.{field}": space for part in PARTS for field, space in sorted(getattr(self.search, part).items())
        }

    def largest(self) -> dict[str, Value]:
        """The values that want the most memory and time: of each field the greatest number."""
        found: dict[str, Value] = {}
        for name, space in self.spaces().items():
            if numbers := [end for end in space.ends() if isinstance(end, (int, float)) and not isinstance(end, bool)]:
                found[name] = max(numbers)
        return found


def check_sweep(sweep: Sweep, recipe: Mapping[str, Any]) -> None:
    """Refuses a sweep that the rest of the recipe does not fit, and a space whose values the field itself would refuse.

    Args:
        recipe: its ``data``, ``adapter``, ``cpt`` and ``sft``.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    if recipe["sft"] is None:
        raise ValueError("a sweep searches for the settings of sft, which the recipe leaves out")
    if not recipe["data"].split.validation:
        raise ValueError("a sweep compares trials on validation rows; give data.split.validation a share")
    if sweep.search.adapter and recipe["cpt"]:
        raise ValueError("search.adapter: sft goes on with the adapter of cpt; leave one of the two out")
    for name, space in sweep.spaces().items():
        part, _, field = name.partition(".")
        base: BaseModel = recipe[part]
        fields = [known for known in type(base).model_fields if known != "method"]
        if field not in fields:
            raise ValueError(f"search.{name} is no field of {part}; allowed: {', '.join(fields) or 'none'}")
        own = getattr(base, field)
        if space.choices is None and (isinstance(own, bool) or not isinstance(own, (int, float))):
            raise ValueError(
                f"search.{name}: its value in {part} is {own!r}, no number: give choices, or a number there"
            )
        if isinstance(own, int) and space.step is not None and not space.step.is_integer():
            raise ValueError(f"search.{name}: step {space.step:g} of a whole number")
        for value in space.ends():
            _check_value(name, base, field, value)


def _check_value(name: str, base: BaseModel, field: str, value: Value) -> None:
    try:
        read = getattr(type(base).model_validate({**base.model_dump(), field: value}), field)
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"].removeprefix("Input should be ")
        raise ValueError(f"search.{name}: {value!r} is not allowed; allowed: {why}") from error
    if read != value:
        raise ValueError(f"search.{name}: {value!r} reads as {read!r}; write it so (YAML wants 1.0e-4 for a number)")
