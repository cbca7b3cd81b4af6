"""Usage records keyed by replica id: adding one twice changes nothing, so a write may be repeated after a crash."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from pydantic import ValidationError

from costopt.schema.usage import UsageRecord


@dataclass(frozen=True)
class Ledger:
    """Records of replicas that have ended, in the order they were added."""

    records: tuple[UsageRecord, ...] = ()

    @cached_property
    def by_uid(self) -> dict[str, UsageRecord]:
        """The records by replica id."""
        return {record.uid: record for record in self.records}

    def add(self, record: UsageRecord) -> Self:
        """This ledger with `record`; itself, if the record is already in it.

        Raises ValueError for a replica that still runs (it has no end to record), and for a record that differs from
        the one with the same id (no second may count twice, and written records stay).
        """
        known = self.by_uid.get(record.uid)
        refusal = _refusal(record, known)
        if refusal:
            raise ValueError(refusal)
        return self if known else type(self)((*self.records, record))

    def to_lines(self) -> str:
        """The ledger as JSON lines, one record each."""
        return "".join(record.model_dump_json(by_alias=True, exclude_none=True) + "\n" for record in self.records)

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> Self:
        """The ledger that `to_lines` wrote, from its lines (a file, or `text.split("\\n")`).

        Blank lines are skipped. Raises ValueError naming a line that is not a usage record.
        """
        known: dict[str, UsageRecord] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = UsageRecord.model_validate_json(line)
            except ValidationError as error:
                raise ValueError(f"line {number} of the ledger must be a usage record: {_first(error)}") from error
            if _refusal(record, known.get(record.uid)):
                raise ValueError(f"line {number} of the ledger: {_refusal(record, known.get(record.uid))}")
            known[record.uid] = record
        return cls(tuple(known.values()))


def _refusal(record: UsageRecord, known: UsageRecord | None) -> str | None:
    """Why `record` cannot be added if `known` has its id; None if it can."""
    if record.outcome == "Running":
        return f"usage of {record.uid} can be recorded only after its end; it is still running"
    if known is not None and known != record:
        return f"usage of {record.uid} is already recorded with other figures; a record never changes"
    return None


def _first(error: ValidationError) -> str:
    mistake = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in mistake["loc"])
    return f"{where}: {mistake['msg']}" if where else str(mistake["msg"])
