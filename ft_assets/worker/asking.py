"""A model to be asked, whatever artifact it is: its weights, its tokenizer, and prompts as it reads them."""

from dataclasses import dataclass
from typing import Any

from ft_assets.core.reasons import Reason, RowFault
from ft_assets.worker.contestants import Contestants
from ft_assets.worker.generate import room
from ft_assets.worker.hardware import pick_device, pick_dtype
from ft_assets.worker.job import Job
from ft_assets.worker.models import load_classifier
from ft_assets.worker.template import Template, Turns
from ft_assets.worker.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Prompt:
    """What a model is asked, as its chat template writes it, and how many tokens that is."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Asked:
    """A loaded model with its tokenizer."""

    model: Any
    tokenizer: Any

    def prompts(self, conversations: list[Turns], max_new_tokens: int) -> list[Prompt | RowFault]:
        """Each conversation up to the answer; a fault where the template fails, a special token is spelt out in a turn, or
        there is no room for an answer of ``max_new_tokens``.
        """
        template = Template(self.tokenizer)
        texts = template.render(conversations, add_generation_prompt=True)
        good = [text if isinstance(text, str) else "" for text in texts]
        most = room(self.model, max_new_tokens)
        found: list[Prompt | RowFault] = []
        for turns, text, ids in zip(conversations, texts, template.encode(good), strict=True):
            if isinstance(text, RowFault):
                found.append(text)
            elif token := template.special_token([turn["content"] for turn in turns]):
                detail = f"holds the model's special token {token}, which would become one"
                found.append(RowFault(Reason.SPECIAL_TOKENS, detail))
            elif most is not None and len(ids) > most:
                detail = f"{len(ids)} tokens; with an answer of {max_new_tokens} the model's context holds {most}"
                found.append(RowFault(Reason.TOO_LONG, detail))
            else:
                found.append(Prompt(text, len(ids)))
        return found


def open_asked(job: Job) -> Asked:
    """The model of roles ``model`` and, where that is an adapter, ``base_model``, on the device of the job.

    Raises:
        FineTuneError: the adapter belongs to another base model.
    """
    device = pick_device(job.execution["device"])
    dtype = pick_dtype(device, job.execution["dtype"])
    if "max_length" in job.identity:
        folder = job.input("model").folder
        return Asked(load_classifier(folder, dtype).to(device), load_tokenizer(folder))
    loaded = Contestants(device, dtype).of(job)
    return Asked(loaded.model, loaded.tokenizer)
