"""A real job of two nodes tokenizes its text: each node a part, nobody what another has made, whoever is killed.

Each node has a host name of its own, as pods have: of the processes of one machine a single one tokenizes.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders.data import text_settings
from builders.local import RECIPE, assert_nothing_is_left, processes_below, recipe_job
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner, TurnResult
from costopt.schema.data import DataSettings
from costopt.schema.status import StageStatus
from costopt_trainer.data import load_data
from costopt_trainer.data.shares import SHARE_BYTES

UNSHARE = ("unshare", "--uts") if os.getuid() == 0 else ("unshare", "--user", "--map-root-user", "--uts")
NAMED = ("sh", "-c", 'hostname node-$COSTOPT_REPLICA_INDEX && exec "$@"', "sh")
LAUNCHER = (*UNSHARE, *NAMED, sys.executable, "-m", "costopt_trainer.launch")


def may_have_host_names() -> bool:
    try:
        return subprocess.run([*UNSHARE, "hostname", "node-0"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not may_have_host_names(), reason="host names of their own are of Linux, for who may unshare"),
]


@dataclass(frozen=True)
class Corpus:
    """A text of several shares, and what one node makes of it."""

    settings: DataSettings
    num_bytes: int
    whole: dict[str, bytes]


def tokens_in(cache: Path) -> dict[str, bytes]:
    """The files of the one folder of tokens that was published."""
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    source = random.Random(2)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(5_000)]
    block = " ".join(source.choices(words, k=150_000))
    path = folder / "text.txt"
    path.write_text("\n".join(f"{number} {block}" for number in range(13)))
    assert path.stat().st_size > 3 * SHARE_BYTES
    settings = text_settings(path, tokenizer={"type": "BPE", "vocabularySize": 300})
    load_data(settings, context_length=16, cache_dir=folder / "cache")
    return Corpus(settings, path.stat().st_size, tokens_in(folder / "cache"))


class Job:
    """A job of two nodes that trains on it for a moment."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.folder = folder / "run"
        self.cache = self.folder / "cache"
        recipe = {**RECIPE, "data": corpus.settings.to_plain(), "totalSteps": 3, "evaluation": {"maxSamples": 8}}
        self._job = recipe_job(train={"numNodes": 2, "recipe": recipe}, compress=[])

    def run(self, on_look: Callable[[TurnResult], None] = lambda _look: None) -> StageStatus:
        """How its training ended."""
        run_folder = RunFolder(self.folder)
        run_folder.create()
        run_folder.claim(self._job)
        status = Runner(run_folder, self._job, None, argv=LAUNCHER).run(on_look)
        assert status.stages[0].state == "Succeeded", status.failure
        return status.stages[0]

    def log(self, attempt: int, node: int) -> str:
        """What a node has said so far."""
        path = self.folder / "logs" / f"tiny-train-a{attempt}-{node}.log"
        return path.read_text() if path.exists() else ""

    def tokenized(self, attempt: int) -> list[int]:
        """Bytes of text that each node says to have tokenized, each time it has come to the end of it."""
        told = (re.findall(r"tokenized ([\d,]+) of [\d,]+ bytes of text here", self.log(attempt, n)) for n in range(2))
        return [int(number.replace(",", "")) for numbers in told for number in numbers]

    def kill(self, node: int) -> None:
        """What becomes of a node that loses its power."""
        for pid in processes_below(self.folder):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end with another that is killed
                if f"COSTOPT_REPLICA_INDEX={node}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)


def test_each_of_two_nodes_tokenizes_a_part_and_no_byte_is_tokenized_twice(tmp_path: Path, corpus: Corpus) -> None:
    job = Job(tmp_path, corpus)
    assert job.run().attempt == 0
    one, other = job.tokenized(0)
    assert min(one, other) > 0
    assert one + other == corpus.num_bytes
    assert tokens_in(job.cache) == corpus.whole, "to the byte what one node makes"


@pytest.mark.parametrize("role", ["puts the tokens together", "helps"])
def test_a_job_goes_on_where_a_node_was_killed_that_tokenized(tmp_path: Path, corpus: Corpus, role: str) -> None:
    job, killed = Job(tmp_path, corpus), []

    def kill_once(_look: TurnResult) -> None:
        if not killed and any(job.cache.glob(".*.shares/*.tokens")):
            # Only who holds the text's lock learns the byte pairs.
            holder = int("LearningTokenizer" in job.log(0, 1))
            killed.append(holder if role.startswith("puts") else 1 - holder)
            job.kill(killed[0])
            assert not any(path.is_dir() for path in job.cache.glob("[!.]*")), "nothing is published yet"

    assert job.run(kill_once).attempt == 1
    assert len(killed) == 1
    # The other node may have gone on to the end meanwhile, and then there is nothing left for the next attempt.
    assert sum(job.tokenized(1)) <= corpus.num_bytes - SHARE_BYTES * 3 // 4, "what is there is not made again"
    assert tokens_in(job.cache) == corpus.whole
    assert not list(job.cache.glob(".*.shares*")), "no share is left over"
    assert not list(job.cache.glob(".*.partial*"))
    assert_nothing_is_left(job.folder)
