"""A model to be asked, whatever artifact it is: its weights, its tokenizer, and prompts as it reads them."""

from dataclasses import dataclass
from typing import Any

from ft_assets.core.reasons import Reason, RowFault
from ft_assets.worker.hardware import pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import is_adapter, load_causal, load_classifier, load_trained, without_peft
from ft_assets.worker.template import Template, Turns
from ft_assets.worker.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, as its chat template writes it, and how many tokens that is."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Asked:
    """A loaded model with its tokenizer. ``reach`` is how many tokens it has positions for, None where it does not say."""

    model: Any
    tokenizer: Any
    reach: int | None

    def prompts(self, conversations: list[Turns], max_new_tokens: int) -> list[Prompt | RowFault]:
        """Each conversation up to the answer; a fault where the template fails, a special token is spelt out in a turn, or
        there is no room for an answer of ``max_new_tokens``.
        """
        template = Template(self.tokenizer)
        texts = template.render(conversations, add_generation_prompt=True)
        good = [text if isinstance(text, str) else "" for text in texts]
        before = len(getattr(self.model, "virtual_ids", ()))
        found: list[Prompt | RowFault] = []
        for turns, text, ids in zip(conversations, texts, template.encode(good), strict=True):
            tokens = len(ids) + before
            if isinstance(text, RowFault):
                found.append(text)
            elif token := template.special_token([turn["content"] for turn in turns]):
                detail = f"holds the model's special token {token}, which would become one"
                found.append(RowFault(Reason.SPECIAL_TOKENS, detail))
            elif self.reach is not None and tokens + max_new_tokens > self.reach:
                detail = f"{tokens} tokens and an answer of {max_new_tokens}; the model reads {self.reach}"
                found.append(RowFault(Reason.TOO_LONG, detail))
            else:
                found.append(Prompt(text, tokens))
        return found


def open_asked(job: Job) -> Asked:
    """The model of roles ``model`` and, where that is an adapter, ``base_model``, on the device of the job.

    Raises:
        FineTuneError: the adapter belongs to another base model.
    """
    artifact = job.input("model")
    device = pick_device(job.execution["device"])
    dtype = pick_dtype(device, job.execution["dtype"])
    form = job.identity.get("form")
    folder = artifact.folder / form if form else artifact.folder
    if artifact.manifest.stage == "classifier":
        model = load_classifier(folder, dtype)
    elif is_adapter(artifact):
        base = job.input("base_model")
        folder, model = base.folder, without_peft(load_trained(base, artifact, dtype))
    else:
        model = load_causal(folder, dtype)
    model = model.to(device)
    reach = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Asked(model, load_tokenizer(folder), reach)
