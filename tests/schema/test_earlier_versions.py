"""What an earlier version wrote is read: a running job, its bill and its variants survive an upgrade."""

import json
from pathlib import Path

import pytest

from builders.local import job
from costopt.cli.variants import variant_notes
from costopt.local.run_folder import RunFolder
from costopt.schema.lenient_parse import read_known
from costopt.schema.status import JobStatus
from costopt_operator.decide.holding import remembered

EARLIER = sorted((Path(__file__).parents[1] / "cases" / "earlier").glob("*.json"))
"""Statuses as earlier versions wrote them, with something in each part. A version that changes the status adds one."""


@pytest.fixture(params=EARLIER, ids=lambda path: path.stem)
def written(request: pytest.FixtureRequest) -> bytes:
    content: bytes = request.param.read_bytes()
    return content


def test_there_is_an_earlier_version() -> None:
    assert EARLIER


def test_its_status_is_understood_with_all_that_decides(written: bytes) -> None:
    plain, status = json.loads(written), read_known(JobStatus, written)
    assert [stage.attempt for stage in status.stages] == [stage["attempt"] for stage in plain["stages"]]
    assert status.usage is not None
    assert status.bill is not None
    kept = status.usage.to_plain()
    assert [kept["records"], kept["folded"], kept["held"]] == [
        plain["usage"][part] for part in ("records", "folded", "held")
    ]
    assert status.bill.list_cost == plain["bill"]["listCost"]
    assert [entry.uid for entry in status.batch_jobs or ()] == [entry["uid"] for entry in plain["batchJobs"]]
    assert len(status.variants) == len(plain["variants"])
    variant_notes(status.variants)


def test_the_operator_goes_on_from_what_was_held(written: bytes) -> None:
    usage = read_known(JobStatus, written).usage
    assert usage is not None
    known = remembered(usage)
    assert len(known.held) == 2
    assert known.seen == usage.seen


def test_a_run_folder_goes_on_from_it(written: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "tiny")
    folder.create()
    folder.claim(job())
    (tmp_path / "tiny" / "status.json").write_bytes(written)
    assert folder.status().continues_from_step == json.loads(written)["continuesFromStep"]
