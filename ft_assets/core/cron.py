"""Cron expressions of five fields (minute hour day-of-month month day-of-week), in UTC.

Day of month and day of week are joined by *or* where both are restricted, as crontab(5) has it. Sunday is 0 or 7.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

BOUNDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
LONGEST_PAUSE_DAYS = 8 * 366  # 29 February, over a century that is no leap year


@dataclass(frozen=True)
class Cron:
    """The minutes, hours, days, months and weekdays (Sunday 0) on which a schedule comes due."""

    minute: frozenset[int]
    hour: frozenset[int]
    day: frozenset[int]
    month: frozenset[int]
    weekday: frozenset[int]
    either_day: bool

    def latest(self, now: float) -> float | None:
        """The last time the schedule came due, at or before ``now`` (both in seconds since 1970); None: never."""
        moment = datetime.fromtimestamp(now, UTC).replace(second=0, microsecond=0)
        clock = (moment.hour, moment.minute)
        for days in range(LONGEST_PAUSE_DAYS):
            date = moment - timedelta(days=days)
            if not self._has(date):
                continue
            times = [(hour, minute) for hour in self.hour for minute in self.minute]
            times = [time for time in times if days or time <= clock]
            if times:
                hour, minute = max(times)
                return date.replace(hour=hour, minute=minute).timestamp()
        return None

    def _has(self, date: datetime) -> bool:
        day, weekday = date.day in self.day, (date.weekday() + 1) % 7 in self.weekday
        return date.month in self.month and ((day or weekday) if self.either_day else (day and weekday))


def parse(text: str) -> Cron:
    """Reads a cron expression.

    Raises:
        ValueError: a field is missing, malformed or out of its bounds, or the schedule never comes due.
    """
    fields = text.split()
    if len(fields) != len(BOUNDS):
        raise ValueError(f"{text!r} has {len(fields)} fields; a cron expression has 5: {' '.join(BOUNDS)}")
    values = {name: _field(name, field) for name, field in zip(BOUNDS, fields, strict=True)}
    values["weekday"] = frozenset(value % 7 for value in values["weekday"])
    cron = Cron(**values, either_day=not fields[2].startswith("*") and not fields[4].startswith("*"))
    if cron.latest(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) is None:
        raise ValueError(f"{text!r} never comes due: no such day in any year")
    return cron


def _field(name: str, text: str) -> frozenset[int]:
    low, high = BOUNDS[name]
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            first, last = str(low), str(high)
        elif not dash:
            last = str(high) if slash else first
        numbers = (first, last, step if slash else "1")
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError(f"{name} {text!r}: write *, a number, a-b, */n or a list of these")
        start, end, every = map(int, numbers)
        if not (low <= start <= end <= high and every >= 1):
            raise ValueError(f"{name} {text!r} is outside {low} to {high}")
        found.update(range(start, end + 1, every))
    return frozenset(found)
