"""What weights that are not trained take, and the states of an optimizer."""

from ft_assets.core.shape import Shape
from ft_assets.recipes.schema import Recipe
from ft_assets.recipes.training import Full, Training

NF4_BITS = 4.127  # with double quantization: 4 + 8/64 + 32/(64 * 256) (Dettmers et al., arXiv 2305.14314, section 3)


def is_quantized(recipe: Recipe) -> bool:
    return recipe.adapter.method in ("qlora", "lora_8bit")


def frozen_bytes(recipe: Recipe, parameters: int, shape: Shape, width: int) -> int:
    """Bytes of the weights that are not trained; linear ones of layers in NF4 or, with a scale for each row, in int8. With
    full training none is frozen.

    Args:
        parameters: of the model as it is loaded.
        width: bytes of a number that is not quantized.
    """
    if isinstance(recipe.adapter, Full):
        return 0
    if not is_quantized(recipe):
        return parameters * width
    quantized = shape.linears.numbers
    in_int8 = quantized + 4 * shape.linears.out
    packed = int(quantized * NF4_BITS / 8) if recipe.adapter.method == "qlora" else in_int8
    return (parameters - quantized) * width + packed


def dequantized_bytes(recipe: Recipe, shape: Shape, width: int) -> int:
    """Of the largest linear weight, as it is multiplied with."""
    return width * shape.linears.largest if is_quantized(recipe) else 0


def optimizer_bytes(settings: Training, shape: Shape, trained: int, full: bool) -> int:
    """States of the optimizer: Adam's two in float32; bitsandbytes' in 8 bit with a scale in float32 for each 256 of them,
    but for embeddings (arXiv 2110.02861, sections 2.1 and 2.3); Adafactor's one number for each row and column of a matrix
    (arXiv 1804.04235, section 3).
    """
    embedding = shape.vocabulary * shape.hidden if full else 0
    if settings.optim == "adamw_bnb_8bit":
        return 8 * embedding + int((trained - embedding) * (2 + 2 * 4 / 256))
    if settings.optim == "adafactor":
        sides = shape.linears.out + shape.linears.into + 2 * (shape.vocabulary + shape.hidden)
        return 4 * sides
    return 8 * trained
