"""Why a row was set aside: the words of every quarantine."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a row was set aside. ``unreadable`` stands for all that follows its position in a file."""

    UNREADABLE = "unreadable"
    MALFORMED = "malformed"
    NOT_UTF8 = "not_utf8"
    OVERSIZED = "oversized"
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"
    EMPTY = "empty"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    CONTROL_CHARACTERS = "control_characters"
    SPECIAL_TOKENS = "special_tokens"
    BAD_ROLE_ORDER = "bad_role_order"
    NO_ASSISTANT_TURN = "no_assistant_turn"
    NO_SHARED_PROMPT = "no_shared_prompt"
    CHOSEN_EQUALS_REJECTED = "chosen_equals_rejected"
    TIE = "tie"
    BAD_CHOICES = "bad_choices"
    NO_SUCH_ANSWER = "no_such_answer"
    PERSONAL_DATA = "personal_data"
    LANGUAGE = "language"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    REVERSED_PAIR = "reversed_pair"
    CONTAMINATION = "contamination"
    TEMPLATE_FAILURE = "template_failure"
    NO_SUPERVISED_TOKEN = "no_supervised_token"
    NOT_SAMPLED = "not_sampled"
    OVER_LIMIT = "over_max_train_rows"


MAX_DETAIL_CHARACTERS = 300


class RowFault(Exception):
    """One row cannot be used; carries the reason and, where it is known, the row as it stood."""

    def __init__(self, reason: Reason, detail: str, raw: str = ""):
        self.reason = reason
        self.raw = raw
        super().__init__(detail[:MAX_DETAIL_CHARACTERS])

    def bare(self) -> "RowFault":
        """Without what led to it: a traceback keeps the row's whole text in memory."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self


class UnreadableRest(Exception):
    """From ``position`` on nothing more of a file can be read."""

    def __init__(self, detail: str, position: int | None = None, reason: Reason = Reason.UNREADABLE):
        self.position = position
        self.reason = reason
        super().__init__(detail)
