"""A collective that never ends: found, told with stacks and the rank that was behind, and left by a restart in place.

Real ranks that meet over gloo. Each program goes wrong in a round of its own, and right in the last.
"""

import re
import textwrap
from pathlib import Path

import pytest

from builders.launch import Replica, python, replica
from builders.ports import free_port
from builders.trainer import recipe, text_file

pytestmark = pytest.mark.slow

HANG_SECONDS = 20
"""On a busy machine a rank may need most of that to get to where it waits."""

WAITS_IN_THE_MODEL = """
    import os, threading
    import torch
    import torch.distributed as dist
    from torch import nn

    ROUND, RANK = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])


    class Words(nn.Module):
        def __init__(self, vocabulary_size):
            super().__init__()
            self.embedding, self.head = nn.Embedding(vocabulary_size, 8), nn.Linear(8, vocabulary_size)
            self.passes = 0

        def forward(self, tokens):
            self.passes += self.training
            if self.training and self.passes == 6 and ROUND < 2:
                group = dist.new_group()
                if ROUND == 0 and RANK == 1:
                    leaves_out_the_sum_of_gradients()
                if ROUND == 1 and RANK == 0:
                    dist.barrier(group)  # while the other waits for the sum of gradients
            return self.head(self.embedding(tokens))


    def leaves_out_the_sum_of_gradients():
        threading.Event().wait()


    def model(*, vocabulary_size):
        return Words(vocabulary_size)
"""


def told(launcher: Replica) -> list[str]:
    """Why ranks were started anew, each time."""
    return [line for line in launcher.notes.splitlines() if "starting all ranks anew in place" in line]


def test_a_training_whose_ranks_wait_for_one_another_is_restarted_and_ends(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(textwrap.dedent(WAITS_IN_THE_MODEL))
    settings = recipe(
        text_file(tmp_path),
        model={"type": "Import", "import": {"function": "hanging:model", "path": str(tmp_path), "contextLength": 16}},
        batch={"globalBatchSize": 8, "microBatchSize": 4},
        totalSteps=12,
        evaluation={"everySteps": 12, "maxSamples": 8},
        checkpointing={"everySteps": 2},
    )
    plain = {"jobName": "demo", "stage": "train", "numNodes": 2, "processesPerNode": 1, "inPlaceRestarts": 3}
    asked = {**plain, "recipe": settings.to_plain(), "hangTimeoutSeconds": HANG_SECONDS}
    storage, port = {"COSTOPT_STORAGE_DIR": str(tmp_path / "storage")}, free_port()
    with (
        replica(tmp_path / "0", None, index=0, port=port, settings=asked, environment=storage) as first,
        replica(tmp_path / "1", None, index=1, port=port, settings=asked, environment=storage) as second,
    ):
        assert (first.wait(), second.wait()) == (0, 0), first.notes + second.notes
    for launcher in (first, second):
        left_out, mismatch = told(launcher)
        assert "Stalled: no rank has shown a sign of work for " in left_out
        assert re.search(r"in step \d+, rank 1 is behind the others", left_out)
        assert re.search(r"in step \d+, rank 0 is behind the others", mismatch)
    assert "stacks of rank 0:" in first.output
    assert "stacks of rank 1:" in second.output
    assert "in leaves_out_the_sum_of_gradients" in second.notes + second.output
    assert "in barrier" in first.notes + first.output
    progress = first.termination.progress
    assert progress is not None
    assert (progress.step, progress.in_place_restarts) == (12, 2)
    assert progress.restarted_for is not None
    assert (progress.restarted_for.reason, progress.restarted_for.rank) == ("Stalled", 0)
    assert progress.restarted_for.replica_index == 0


WAITS_FOR_A_BATCH = """
    import os, threading
    import torch, torch.distributed as dist
    from costopt_trainer import session

    def waits_for_a_batch_that_never_comes():
        threading.Event().wait()

    dist.init_process_group("gloo")
    session.report(step=0, total_steps=4)
    for step in range(1, 5):
        with session.data_wait():
            if (os.environ["TORCHELASTIC_RESTART_COUNT"], session.rank(), step) == ("0", 1, 3):
                waits_for_a_batch_that_never_comes()
        total = torch.ones(1)
        dist.all_reduce(total)
        session.report(step=step, total_steps=4, loss=total)
    session.leave()
"""


def test_a_program_of_the_users_that_reports_its_steps_has_the_limit_that_is_asked_for(tmp_path: Path) -> None:
    plain = {"jobName": "demo", "stage": "train", "numNodes": 1, "processesPerNode": 2, "inPlaceRestarts": 1}
    asked = {**plain, "command": python(WAITS_FOR_A_BATCH), "hangTimeoutSeconds": HANG_SECONDS}
    with replica(tmp_path, None, settings=asked) as launcher:
        assert launcher.wait() == 0, launcher.notes
    (left_out,) = told(launcher)
    assert "in step 3, rank 1 is behind the others" in left_out
    assert "stacks of rank 0:" in launcher.output
    assert "stacks of rank 1:" in launcher.output
    assert "in waits_for_a_batch_that_never_comes" in launcher.notes + launcher.output
    progress = launcher.termination.progress
    assert progress is not None
    assert (progress.step, progress.in_place_restarts) == (4, 1)
