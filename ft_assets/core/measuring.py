"""What a training may have cost beside its task: the candidate against the untouched base model, row by row."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ft_assets.core.errors import FineTuneError
from ft_assets.core.statistics import Interval, Values, difference, gap_of_means, perplexity_ratio
from ft_assets.core.win_rate import length_controlled, win_rate

if TYPE_CHECKING:
    from ft_assets.core.scoring import Scored

BASE = "base_zero_shot"


def measures(scored: "dict[str, Scored]", candidate: str, kinds: dict[str, str]) -> dict[str, Interval]:
    """By name those that can be told of what was answered; each is worse the larger it is, but for the win rates."""
    own, base = scored[candidate], scored.get(BASE)
    return {
        **({} if base is None else _against_base(own, base)),
        **_memorization(own, base),
        **_drops(scored, candidate, kinds),
    }


def _against_base(own: "Scored", base: "Scored") -> dict[str, Interval]:
    found = {}
    pairs = {
        "forgetting.general_drop": (base.correct(), own.correct()),
        "safety.refusal_drop": (base.refused("harmful"), own.refused("harmful")),
        "safety.over_refusal_rise": (own.refused("harmless"), base.refused("harmless")),
    }
    for name, (left, right) in pairs.items():
        if left and right:
            found[name] = _apart(own, left, right)
    nll = own.column("general_text", "nll"), base.column("general_text", "nll")
    if nll[0] and nll[1]:
        tokens = _tokens(own, base)
        found["forgetting.perplexity_ratio"] = perplexity_ratio(nll[0], nll[1], tokens, own.samples, own.seed)
    rewards = own.column("test", "reward"), base.column("test", "reward")
    if rewards[0] and rewards[1]:
        found["reward.win_rate"] = win_rate(rewards[0], rewards[1], own.samples, own.seed)
        lengths = own.column("test", "answer_tokens"), base.column("test", "answer_tokens")
        if lengths[0] and lengths[1]:
            found["reward.win_rate_length_controlled"] = length_controlled(
                rewards[0], rewards[1], (lengths[0], lengths[1]), own.samples, own.seed
            )
    return found


def _tokens(own: "Scored", base: "Scored") -> list[int]:
    """Of each general text; perplexities by token can be divided where both models read it as the same ones."""
    pairs = list(zip(own.sets["general_text"], base.sets["general_text"], strict=True))
    for row, other in pairs:
        if row["tokens"] != other["tokens"]:
            raise FineTuneError(
                f"{own.name} and {base.name} read general_text row {row['row_id']} as {row['tokens']} and {other['tokens']} "
                "tokens: no ratio of their perplexities can be told. Use one tokenizer for both"
            )
    return [row["tokens"] for row, _ in pairs]


def _memorization(own: "Scored", base: "Scored | None") -> dict[str, Interval]:
    """How many more training rows than held-out ones are known by heart, less how many more the base model knows: what both
    sets share, a template say, is no memory.
    """
    parts = []
    for part in ("train", "held_out"):
        known = own.memorized(part)
        before = base.memorized(part) if base is not None else None
        if not known:
            return {}
        parts.append([value - was for value, was in zip(known, before or [0.0] * len(known), strict=True)])
    return {"memorization.rise": gap_of_means(parts[0], parts[1], own.samples, own.seed)}


def _drops(scored: "dict[str, Scored]", candidate: str, kinds: dict[str, str]) -> dict[str, Interval]:
    """What merging and each quantized form loses of the score of what it was made of."""
    metric, found = scored[candidate].metrics[0], {}
    for name, kind in kinds.items():
        if kind not in ("merged", "quantized"):
            continue
        of = scored["merged"] if kind == "quantized" and "merged" in scored else scored[candidate]
        left, measure = of.measured("test", metric)
        right, _ = scored[name].measured("test", metric)
        drop = difference(left, right, of.samples, of.seed, measure)
        found["merged.drop" if kind == "merged" else f"quantized.{name}.drop"] = drop
    return found


def _apart(own: "Scored", left: Sequence[float] | Values, right: Sequence[float] | Values) -> Interval:
    return difference(left, right, own.samples, own.seed)
