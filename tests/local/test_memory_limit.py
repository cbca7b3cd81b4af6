"""A variant that needs more memory than it has: the kernel itself kills it, in a control group that is made here."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from builders.cli import environment, program
from builders.local import INT8, given_job
from costopt.local.run_folder import RunFolder
from costopt.render.text import to_yaml
from costopt.schema.models import ModelSettings
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

LIMIT_BYTES = 900 * 2**20
"""Enough for the runner, the launcher and torch (half of it), too little for the model twice."""
WIDTH = 1536
ROOTS = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))


@pytest.fixture
def limited() -> Iterator[Path]:
    """The file to which a process writes its number to have LIMIT_BYTES and no more."""
    for root, limit in ROOTS:
        group = root / f"costopt-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(LIMIT_BYTES))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        yield group / "cgroup.procs"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                group.rmdir()
            except OSError:  # a process of it is still ending
                time.sleep(0.2)
            else:
                return
        return
    pytest.skip("needs the right to make a control group with a memory limit (root on cgroup v1, or on its v2)")


def large_model(folder: Path) -> int:
    """A decoder that is written to `folder`; returns its bytes."""
    decoder = {"numLayers": 3, "numHeads": 4, "embeddingDim": WIDTH, "contextLength": 16}
    shape = ModelShape(ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": decoder}), vocabulary_size=256)
    torch.manual_seed(0)
    return save_model(folder, build_model(shape).eval(), shape)


@pytest.mark.slow
def test_a_variant_that_the_kernel_kills_for_its_memory_is_said_so_and_tried_once_more_and_no_third_time(
    limited: Path, tmp_path: Path
) -> None:
    assert 2 * large_model(tmp_path / "models/tiny") > 0.7 * LIMIT_BYTES
    job = given_job({**INT8, "measureSeconds": 6}, restarts={"maxFailures": 9, "backoffSeconds": 0})
    (tmp_path / "job.yaml").write_text(to_yaml([job.to_plain()]))
    (tmp_path / "text.txt").write_text("".join(f"{n} bottles of beer on the wall.\n" for n in range(900)))
    ended = subprocess.run(
        program("run", "job.yaml"),
        cwd=tmp_path,
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
        preexec_fn=lambda: limited.write_text(str(os.getpid())),
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    status = RunFolder(tmp_path / "runs/tiny").status()
    [stage] = status.stages
    assert (stage.state, stage.attempt, stage.failures_by_reason) == ("Failed", 1, {"OutOfMemory": 2}), ended.stdout
    assert status.failure is not None
    assert "was killed because" in status.failure.message
    assert "memory" in status.failure.message
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not (tmp_path / "runs/tiny/artifacts/int8").exists()
