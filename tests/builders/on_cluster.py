"""Commands on a cluster, run in this process against the fake API server."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builders.fake_api import JOBS, PODS, FakeApi, Plain
from builders.local import job
from costopt import names
from costopt.cli import main

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)

COMMANDS = {
    "status": ("status", "tiny"),
    "list": ("status", "-n", "research"),
    "list everywhere": ("status", "-A"),
    "cost": ("cost", "tiny"),
    "logs": ("logs", "tiny"),
    "logs --follow": ("logs", "tiny", "--follow"),
    "watch": ("watch", "tiny"),
    "suspend": ("suspend", "tiny"),
    "resume": ("resume", "tiny"),
    "delete": ("delete", "tiny"),
    "delete --wait": ("delete", "tiny", "--wait"),
    "submit": ("submit", "job.yaml"),
    "submit --dry-run": ("submit", "job.yaml", "--dry-run"),
}
"""Every command on a cluster, by name: its arguments."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str = "costopt") -> Command:
    """Runs `costopt` in this process, with the given arguments."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr("sys.argv", [f"/usr/bin/{program}", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


def at_home(monkeypatch: pytest.MonkeyPatch, folder: Path, kubeconfig: Path | None) -> None:
    """Work in `folder`, which is also home, with only this kubeconfig."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if kubeconfig is None:
        monkeypatch.delenv("KUBECONFIG", raising=False)
    else:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))


def condition(type_: str, status: str, reason: str, message: str = "a sentence") -> Plain:
    """A condition of a status."""
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-03-04T12:00:00Z",
    }


def running(step: int = 50, **more: Any) -> Plain:
    """The status of a job that trains."""
    return {
        "startTime": "2026-03-04T12:00:00Z",
        "conditions": [condition("Succeeded", "Unknown", "Training")],
        "stages": [{"name": "train", "state": "Running", "attempt": 0, "failures": 0, "disruptions": 0}],
        "progress": {"step": step, "totalSteps": 100, "loss": "2.5"},
        **more,
    }


def succeeded() -> Plain:
    """The status of a job that has succeeded."""
    return {
        **running(100),
        "conditions": [condition("Succeeded", "True", "Completed")],
        "stages": [{"name": "train", "state": "Succeeded", "attempt": 0, "failures": 0, "disruptions": 0}],
    }


def failed(**failure: Any) -> Plain:
    """The status of a job that has failed."""
    return {
        **running(),
        "conditions": [condition("Succeeded", "False", "InvalidData", "text.txt is empty")],
        "stages": [{"name": "train", "state": "Failed", "attempt": 0, "failures": 1, "disruptions": 0}],
        "failure": {
            "stage": "train",
            "attempt": 0,
            "reason": "InvalidData",
            "message": "text.txt is empty",
            "logTail": ["a line", "the last line"],
            **failure,
        },
    }


def add_job(api: FakeApi, name: str = "tiny", status: Plain | None = None, **spec: Any) -> Plain:
    """A job on the cluster."""
    plain = job(name=name, **spec).to_plain()
    return api.add(JOBS, {**plain, **({"status": status} if status else {})})


def add_pod(api: FakeApi, owner: Plain, stage: str, attempt: int, index: int, **status: Any) -> Plain:
    """A pod of the job, `<job>-<stage>-a<attempt>-<index>-xyz`."""
    name = f"{owner['metadata']['name']}-{stage}-a{attempt}-{index}-xyz"
    labels = {
        **names.MANAGED_BY,
        names.LABEL_JOB_UID: owner["metadata"]["uid"],
        names.LABEL_STAGE: stage,
        names.LABEL_ATTEMPT: str(attempt),
    }
    metadata = {
        "name": name,
        "labels": labels,
        "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        "creationTimestamp": f"2026-03-04T12:0{attempt}:00Z",
    }
    return api.add(PODS, {"metadata": metadata, "status": {"phase": "Running", **status}})
