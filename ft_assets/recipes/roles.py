"""Roles: what a recipe takes its sources for, and which of their batches come first. Imports nothing, for workers."""

TRAINING_ROLES = ("cpt", "sft", "preference", "prompt", "classification")
HELD_OUT_ROLES = ("test", "out_of_domain", "safety", "general", "general_text")
SOURCE_ROLES = TRAINING_ROLES + HELD_OUT_ROLES
KIND_OF_ROLE = {
    "cpt": "text",
    "sft": "instruction",
    "preference": "preference",
    "prompt": "prompt",
    "classification": "classification",
    "test": "instruction",
    "out_of_domain": "instruction",
    "safety": "prompt",
    "general": "multiple_choice",
    "general_text": "text",
}
QUESTION_ROLES = ("test", "out_of_domain")


def kind_of_role(role: str, classifies: bool) -> str:
    """The kind of source that a role takes in a recipe; what a classifier is asked are texts with their labels."""
    return "classification" if classifies and role in QUESTION_ROLES else KIND_OF_ROLE[role]


def precedence(key: str) -> tuple[str, str]:
    """Sort key of ``source@batch``: batch names first. Of rows that are alike the first is kept, and where batches are
    named by their date, one that is new comes last whatever its source.
    """
    source, _, batch = key.partition("@")
    return batch, source
