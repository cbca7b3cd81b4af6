"""What a replica answers to settings and an environment it cannot use: exit code 78 and one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders.launch import replica

GOOD: dict[str, Any] = {"jobName": "j", "stage": "train", "numNodes": 1, "processesPerNode": 1, "command": ["true"]}

INT8 = {"name": "v", "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]}

WRONG_SETTINGS = [
    ("", "must be JSON"),
    ("[1, 2", "must be JSON"),
    ("\x00\x01", "must be JSON"),
    (json.dumps(GOOD | {"numNodes": "two"}), "settings.json is wrong: numNodes: "),
    (json.dumps(GOOD | {"colour": "red"}), "settings.json is wrong: colour: "),
    (json.dumps({"stage": "train"}), "settings.json is wrong: jobName: "),
    (json.dumps(GOOD | {"processesPerNode": 0}), "settings.json is wrong: processesPerNode: "),
    (json.dumps({k: v for k, v in GOOD.items() if k != "command"}), "Exactly one of recipe and command"),
    (json.dumps(GOOD | {"command": []}), "command in "),
    (json.dumps(GOOD | {"command": None, "variant": INT8}), "Exactly one of recipe and evaluation"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG_SETTINGS)
def test_wrong_settings_are_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with replica(tmp_path, None, settings=text) as launcher:
        assert launcher.wait() == 78
        message = launcher.termination
    assert message.reason == "InvalidSettings"
    assert sentence in message.message
    assert launcher.notes == f"costopt: InvalidSettings: {message.message}\n"


WRONG_ENVIRONMENTS = [
    ({"COSTOPT_SETTINGS_FILE": ""}, "COSTOPT_SETTINGS_FILE must name the replica's settings file."),
    ({"COSTOPT_SETTINGS_FILE": "/no/such/file"}, "The settings file /no/such/file cannot be read"),
    ({"COSTOPT_REPLICA_INDEX": "first"}, "COSTOPT_REPLICA_INDEX must be a whole number"),
    ({"COSTOPT_REPLICA_INDEX": "1"}, "COSTOPT_REPLICA_INDEX (1) must be less than numNodes (1)."),
    ({"COSTOPT_RENDEZVOUS_PORT": "70000"}, "COSTOPT_RENDEZVOUS_PORT must be a whole number of at most 65535"),
    ({"COSTOPT_LIFELINE_FD": "99"}, "COSTOPT_LIFELINE_FD (99) must be an open file"),
]


@pytest.mark.parametrize(("environment", "sentence"), WRONG_ENVIRONMENTS)
def test_a_wrong_environment_is_refused_in_one_sentence(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    with replica(tmp_path, ["true"], environment=environment) as launcher:
        assert launcher.wait() == 78
        assert launcher.termination.message.startswith(sentence)


def test_a_termination_file_that_cannot_be_written_does_not_change_the_exit_code(tmp_path: Path) -> None:
    with replica(
        tmp_path, None, settings="", environment={"COSTOPT_TERMINATION_FILE": "/no/such/folder/x"}
    ) as launcher:
        assert launcher.wait() == 78
    assert "the termination message cannot be written" in launcher.notes
