"""Moments in documents: any zone may write them, and what lies between two of them does not depend on it."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter, ValidationError

from builders.accounting import record
from costopt.schema.base import Timestamp

MOMENTS: TypeAdapter[datetime] = TypeAdapter(Timestamp)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"])
@pytest.mark.parametrize("day", ["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-25", "2026-11-01"])
def test_a_day_on_which_clocks_are_set_has_its_true_hours(zone: str, day: str) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
    held = record(
        held_from=begin.astimezone(ZoneInfo(zone)), held_until=(begin + timedelta(hours=30)).astimezone(ZoneInfo(zone))
    )
    assert held.held_until - held.held_from == timedelta(hours=30)
    assert held.held_from.utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_moment_beyond_the_calendar_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValidationError, match="must be a moment between the years 1 and 9999 in UTC"):
        MOMENTS.validate_json(f'"{text}"')
