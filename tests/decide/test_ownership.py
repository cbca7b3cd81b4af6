"""Whose an object is: decided by the uid of its controller and our label, by nothing else."""

from typing import Any

import pytest

from builders.operator import UID, a_job, owner
from costopt import names
from costopt.render.children import network_policy, storage_claim
from costopt_operator.decide.ownership import Standing, belongs_to, controller_of, standing

Json = dict[str, Any]

OURS = {"labels": names.MANAGED_BY, "ownerReferences": [owner("CostOptJob", "tiny", UID)]}
EARLIER = {"labels": names.MANAGED_BY, "ownerReferences": [owner("CostOptJob", "tiny", "earlier")]}
OF_ANOTHER_NAME = {"labels": names.MANAGED_BY, "ownerReferences": [owner("CostOptJob", "tiny-peers", "living")]}
"""As an earlier version made: the policy of a job was named like the job."""
SAID_TO_BE_OURS = {**names.MANAGED_BY, names.LABEL_JOB: "tiny", names.LABEL_JOB_UID: UID}
GOING = {"deletionTimestamp": "2026-03-01T12:00:00Z"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (OURS, "Ours"),
        ({**OURS, **GOING}, "Going"),
        (EARLIER, "Earlier"),
        ({**EARLIER, **GOING}, "Going"),
        (GOING, "Going"),
        (OF_ANOTHER_NAME, "Foreign"),
        ({}, "Foreign"),
        ({"labels": None, "ownerReferences": None}, "Foreign"),
        ({"labels": SAID_TO_BE_OURS}, "Foreign"),
        ({"ownerReferences": OURS["ownerReferences"]}, "Foreign"),
        ({**OURS, "ownerReferences": [{**OURS["ownerReferences"][0], "controller": False}]}, "Foreign"),
        ({"labels": SAID_TO_BE_OURS, "ownerReferences": [owner("Deployment", "tiny", "other")]}, "Foreign"),
    ],
)
def test_an_object_is_a_jobs_by_the_uid_of_its_controller_and_our_label(metadata: Json, expected: Standing) -> None:
    drawn = network_policy(a_job())
    assert standing({"metadata": metadata}, drawn, job_uid=UID) == expected
    assert belongs_to(metadata, UID) == (metadata in (OURS, {**OURS, **GOING}))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("metadata", "to_be_used_again"),
    [
        ({"labels": {**names.MANAGED_BY, names.LABEL_JOB: "tiny"}}, True),
        ({"labels": {**names.MANAGED_BY, names.LABEL_JOB: "tiny", names.LABEL_JOB_UID: "earlier"}}, True),
        ({"labels": {**names.MANAGED_BY, names.LABEL_JOB: "another"}}, False),
        ({"labels": {names.LABEL_JOB: "tiny"}}, False),
        ({"labels": SAID_TO_BE_OURS, **GOING}, False),
        ({"labels": SAID_TO_BE_OURS, "ownerReferences": [owner("StatefulSet", "db", "other")]}, False),
    ],
)
def test_a_kept_claim_is_used_again_by_a_job_of_the_same_name_that_keeps_it_too(
    metadata: Json, to_be_used_again: bool, kept: bool
) -> None:
    drawn = storage_claim(a_job(storage={"create": {"size": "1Gi", "keepAfterDeletion": kept}}))
    assert drawn is not None
    is_ours = standing({"metadata": metadata}, drawn, job_uid=UID) == "Ours"
    assert is_ours == (to_be_used_again and kept)


def test_the_controller_is_the_one_reference_that_says_so() -> None:
    others = [{"kind": "A", "name": "a", "uid": "1"}, {"kind": "B", "name": "b", "uid": "2", "controller": "true"}]
    assert controller_of({"ownerReferences": [*others, owner("Job", "j", "3")]}).uid == "3"
    assert controller_of({"ownerReferences": others}).uid == ""
