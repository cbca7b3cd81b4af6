"""Documents of a newer version of the language."""

import json

import pytest
from pydantic import ValidationError

from cases.mistakes import plain_job
from costopt.schema.job import CostOptJob
from costopt.schema.lenient_parse import read_known


def test_fields_that_are_not_known_are_passed_over_wherever_they_are() -> None:
    plain = plain_job()
    newer = json.loads(json.dumps(plain))
    newer["spec"]["motto"] = "onward"
    newer["spec"]["train"]["recipe"]["batch"]["nanoBatchSize"] = 1
    newer["spec"]["compress"][1]["steps"][0]["prune"]["gently"] = True
    assert read_known(CostOptJob, json.dumps(newer).encode()) == CostOptJob.model_validate(plain)


def test_any_other_mistake_is_still_one() -> None:
    newer = plain_job(motto="onward", suspend="yes")
    with pytest.raises(ValidationError, match="suspend"):
        read_known(CostOptJob, json.dumps(newer).encode())
