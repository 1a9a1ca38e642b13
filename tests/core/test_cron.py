"""Laws of cron expressions; Dagster's own reader is the reference."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_assets.core.cron import parse

YEAR_2026 = 1_767_225_600


def field(low: int, high: int):
    number = st.integers(low, high)
    # Dagster's reader takes 0-0 for the whole range.
    span = (
        st.tuples(number, number).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: f"{min(pair)}-{max(pair)}")
    )
    few = st.lists(number | span, min_size=1, max_size=3).map(lambda parts: ",".join(map(str, parts)))
    step = st.integers(1, 9).map(lambda every: f"*/{every}")
    return st.just("*") | few | step


# A day of the month and a day of the week with a step are joined differently from reader to reader: not compared.
expressions = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), st.just("*")) | st.tuples(
    field(0, 59),
    field(0, 23),
    st.just("*"),
    st.just("*"),
    st.lists(st.integers(0, 6), min_size=1).map(lambda days: ",".join(map(str, days))),
)


@settings(max_examples=150, deadline=None)
@given(expressions.map(" ".join), st.integers(YEAR_2026, YEAR_2026 + 4 * 366 * 86_400))
def test_it_comes_due_when_dagster_says(text, now):
    from dagster._utils.schedules import reverse_cron_string_iterator

    times = reverse_cron_string_iterator(now + 60, text, "UTC")
    expected = next(time for time in times if time.timestamp() <= now)
    found = parse(text).latest(now)
    assert found is not None
    assert datetime.fromtimestamp(found, UTC) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "5-1 * * * *",
        "*/0 * * * *",
        "x * * * *",
        "1, * * * *",
        "-1 * * * *",
        "٣ * * * *",
        "0 0 31 2 *",
        "0 0 30 2 *",
        "@daily",
    ],
)
def test_what_is_no_cron_expression_is_refused(text):
    with pytest.raises(ValueError, match=r"fields|outside|write|never"):
        parse(text)


def test_sunday_is_0_and_7():
    assert parse("0 0 * * 0") == parse("0 0 * * 7")


def test_either_day_counts_where_both_are_given():
    friday_13th = datetime(2026, 2, 13, 12, tzinfo=UTC).timestamp()
    found = parse("0 0 1 * 5").latest(friday_13th)
    assert found == datetime(2026, 2, 13, tzinfo=UTC).timestamp()
    assert (
        parse("0 0 1 * 5").latest(datetime(2026, 2, 2, tzinfo=UTC).timestamp())
        == datetime(2026, 2, 1, tzinfo=UTC).timestamp()
    )


def test_a_leap_day_is_found_over_the_years():
    assert parse("0 0 29 2 *").latest(YEAR_2026) == datetime(2024, 2, 29, tzinfo=UTC).timestamp()
