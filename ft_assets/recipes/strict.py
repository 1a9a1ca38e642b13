"""What every class of a recipe stands on."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def each_once(names: list[str]) -> list[str]:
    """The same list.

    Raises:
        ValueError: it names something twice.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"each once; found twice: {'; '.join(twice)}")
    return names
