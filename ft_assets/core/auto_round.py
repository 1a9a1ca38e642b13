"""What of a model AutoRound's 4-bit form holds, told before anything trains."""

from ft_assets.core.errors import FineTuneError
from ft_assets.core.shape import Shape

FORM = "auto_round"
GROUPS = (128, 64, 32)  # weights that share a scale; those that vLLM has kernels for


def group_size(shape: Shape) -> int:
    """The largest group that the input width of every linear weight is a multiple of.

    Raises:
        FineTuneError: there is none; names a weight.
    """
    widths = {into: name for name, (_, into) in shape.linear.items()}
    for size in GROUPS:
        if all(into % size == 0 for into in widths):
            return size
    into, name = next((into, name) for into, name in widths.items() if into % GROUPS[-1])
    raise FineTuneError(f"quantize: {name} takes {into} numbers, no multiple of {GROUPS[-1]}; leave auto_round out")
