"""What an adapter is put on, and how many parameters are trained."""

import re
from functools import lru_cache

from ft_assets.core.errors import FineTuneError
from ft_assets.core.shape import Linears, Shape
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import Full, PromptTuning


def trainable_parameters(recipe: Recipe, shape: Shape) -> int:
    """Parameters that are trained; of the adapter alone where there is one."""
    adapter = recipe.adapter
    if isinstance(adapter, Full):
        return shape.parameters
    if isinstance(adapter, PromptTuning):
        return adapter.num_virtual_tokens * shape.hidden
    count = lora_parameters(shape, adapter.r, adapter.target_modules)
    if adapter.method == "dora":  # and a magnitude for each output
        count += adapted_weights(shape, adapter.target_modules).out
    return count


def adapted_weights(shape: Shape, target_modules: str | list[str]) -> Linears:
    """The linear weights that an adapter is put on.

    Raises:
        FineTuneError: ``target_modules`` is no regular expression.
    """
    try:
        return _adapted(shape, target_modules if isinstance(target_modules, str) else tuple(target_modules))
    except re.error as error:
        raise FineTuneError(f"adapter.target_modules {target_modules!r} is no regular expression: {error}") from error


@lru_cache(maxsize=16)
def _adapted(shape: Shape, target_modules: str | tuple[str, ...]) -> Linears:
    """Kept, as a plan asks for the same of each of its many layouts."""
    return Linears.of(size for name, size in shape.linear.items() if _is_target(name, target_modules))


def lora_parameters(shape: Shape, r: int, target_modules: str | list[str]) -> int:
    """r * (in + out) for each adapted linear weight.

    Raises:
        FineTuneError: ``target_modules`` matches none, or is no regular expression.
    """
    on = adapted_weights(shape, target_modules)
    if not on.count:
        raise FineTuneError(
            f"adapter.target_modules {target_modules!r} matches no linear weight of the base model; "
            f"it has {', '.join(sorted({name.rsplit('.', 1)[-1] for name in shape.linear}))}"
        )
    return r * (on.into + on.out)


def _is_target(name: str, target_modules: str | tuple[str, ...]) -> bool:
    """PEFT's rule: a text is a regular expression for the whole name, a list holds names or endings after a dot."""
    if isinstance(target_modules, str):
        return target_modules == "all-linear" or re.fullmatch(target_modules, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in target_modules)
