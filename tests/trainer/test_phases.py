"""Signs of life: from finished pieces, from a thread for opaque calls for a while, and none from what is frozen."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.launch import REPOSITORY, python, replica
from builders.trainer import recipe, text_file
from costopt.schema.replica import PHASE_WORDS, phase_in_log, progress_in_log
from costopt_trainer import phases
from costopt_trainer.phases import Voice


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def heard(voice: Voice, *, aloud: bool = True) -> list[dict[str, object]]:
    """What the voice prints from now on."""
    lines: list[dict[str, object]] = []
    voice.speak_up(aloud=aloud, write=lambda line: lines.append(json.loads(line)))
    return lines


def test_a_phase_is_told_at_its_beginning_and_then_from_finished_pieces() -> None:
    clock = Clock()
    voice = Voice(clock)
    lines = heard(voice)
    with voice.phase("Tokenizing") as pieces:
        for number in range(1, 101):
            clock.seconds += 0.5
            pieces.done(number, 100)
    assert lines[0] == {"phase": "Tokenizing"}
    assert [line["percent"] for line in lines[1:]] == list(range(8, 101, 8))  # every four seconds


def test_a_phase_that_trains_tells_its_steps() -> None:
    clock = Clock()
    voice = Voice(clock)
    lines = heard(voice)
    with voice.phase("Pruning") as pieces:
        clock.seconds += 5
        pieces.step_done(40, 100)
    assert lines[-1] == {"phase": "Pruning", "percent": 40, "step": 40, "totalSteps": 100}
    told = json.dumps(lines[-1])
    assert progress_in_log([told]) is None, "it is no progress of a training"
    phase = phase_in_log([told])
    assert phase is not None
    assert phase.words == "pruning, step 40 of 100"


def test_a_phase_without_finished_pieces_is_silent() -> None:
    clock = Clock()
    voice = Voice(clock)
    lines = heard(voice)
    with voice.phase("Tokenizing"):
        clock.seconds += 1000
        time.sleep(1.3)  # more than the thread's pause
    assert lines == [{"phase": "Tokenizing"}]


def test_a_thread_speaks_for_an_opaque_call_until_its_patience_ends() -> None:
    clock = Clock()
    voice = Voice(clock)
    lines = heard(voice)
    with voice.phase("Importing"):
        clock.seconds += phases.LINE_EVERY_SECONDS
        time.sleep(1.5)
        assert len(lines) == 2
        clock.seconds += phases.PATIENCE_SECONDS["Importing"]
        time.sleep(1.5)
        assert len(lines) == 2


def test_lines_of_short_phases_between_steps_are_few() -> None:
    clock = Clock()
    voice = Voice(clock)
    lines = heard(voice)
    for _ in range(100):
        with voice.phase("SavingCheckpoint"):
            clock.seconds += 0.1
    assert 1 <= len(lines) <= 3


def test_a_rank_that_does_not_speak_for_its_replica_speaks_when_the_others_wait_for_it() -> None:
    voice = Voice(Clock())
    lines = heard(voice, aloud=False)
    with voice.phase("ReadingData"), voice.phase("Tokenizing", alone=True):
        pass
    assert lines == [{"phase": "Tokenizing"}]


def test_every_phase_has_a_patience() -> None:
    assert set(phases.PATIENCE_SECONDS) == set(PHASE_WORDS)


def test_a_frozen_process_falls_silent(tmp_path: Path) -> None:
    program = (
        "import time; from costopt_trainer import phases; phases.LINE_EVERY_SECONDS = 0.2\n"
        "phases.VOICE.speak_up(aloud=True)\n"
        "with phases.phase('Importing'): time.sleep(60)"
    )
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "trainer")])
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=out, env={**os.environ, "PYTHONPATH": path})
    try:
        deadline = time.monotonic() + 60
        while (tmp_path / "out").read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        before = (tmp_path / "out").read_text()
        time.sleep(1)
        assert (tmp_path / "out").read_text() == before
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_users_program_has_the_launchers_lines_only_until_it_starts(tmp_path: Path) -> None:
    with replica(tmp_path, python("import time; print('mine', flush=True); time.sleep(6)")) as launcher:
        assert launcher.wait() == 0
    lines = (tmp_path / "stdout").read_text().splitlines()
    assert lines[-1] == "mine"
    assert list(dict.fromkeys(launcher.phases)) == ["Importing", "MeetingRanks", "RunningCommand"]


@pytest.mark.slow
def test_only_the_first_replicas_launcher_speaks(tmp_path: Path) -> None:
    with replica(tmp_path, python("print('mine')"), index=1, num_nodes=2, options=["--rendezvous-timeout", "3"]) as two:
        assert two.wait() == 1
    assert two.phases == []


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [{"type": "Byte"}, {"type": "BPE", "vocabularySize": 300}])
def test_a_training_tells_its_phases_in_order(tmp_path: Path, tokenizer: dict[str, object]) -> None:
    data = {"type": "Text", "text": {"path": str(text_file(tmp_path))}, "tokenizer": tokenizer}
    settings = {
        "jobName": "demo",
        "stage": "train",
        "numNodes": 1,
        "processesPerNode": 1,
        "recipe": recipe(text_file(tmp_path), data=data).to_plain(),
    }
    with replica(tmp_path, None, settings=settings) as launcher:
        assert launcher.wait() == 0, launcher.notes
    learning = ["LearningTokenizer"] if tokenizer["type"] == "BPE" else []
    told = [name for name, before in zip(launcher.phases, [None, *launcher.phases], strict=False) if name != before]
    reading = ["ReadingData", *learning, "Tokenizing", "ReadingData"]  # the text, and what was made of it
    wanted = ["Importing", "MeetingRanks", "Importing", *reading, "BuildingModel"]
    assert told[: len(wanted) + 2] == [*wanted, "LoadingCheckpoint", "Rehearsing"]
    assert launcher.output.splitlines()[-1].startswith('{"step":8')
