"""The pages' way through a cluster, on a real API server with the real helm and kubectl.

kwok plays the pods, so this file does their work: the operator runs as a process with the rights that the page's own
installation gives it, price books are applied for the hook, and trained pods return what they are told to.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.charts import NAMESPACE
from builders.cluster import Play, play
from builders.docs import read
from builders.docs_shell import Shell
from builders.docs_walk import JOURNEY, OF_A_LONGER_RUN, lay_out, walk
from builders.operator_process import ACCOUNT, OperatorProcess
from cluster.control_plane import ControlPlane
from cluster.team import ON_DEMAND, variant_report

LINE = {"step": 200, "totalSteps": 200, "loss": "2.4473", "tokensPerSecond": 23179}
TRAINED = {
    "exitCode": 0,
    "progress": {**LINE, "validationLoss": "2.3771", "metered": {"startup": 200, "productive": 500}},
}
OPERATOR_WORKS_ON = {"podAnnotations": play(Play(run_seconds="forever"))}
INSTALLING = "helm install "
LEAVING = ("helm uninstall", "kubectl delete -k")


def played(sample: Path, *directions: Play) -> None:
    """Have the pods of a manifest do as directed, each line of it where it was."""
    variants = [Play(stage=name, message=variant_report(name)) for name in ("int8", "pruned")]
    annotations = play(Play(stage="train", message=TRAINED), *variants, *directions)
    before = "  ttlSecondsAfterFinished: 86400\n"
    text = sample.read_text()
    assert text.count(before) == 1
    pods = {"nodeSelector": ON_DEMAND, "annotations": annotations}
    sample.write_text(text.replace(before, f"{before}  pods: {json.dumps(pods)}\n"))


class Played:
    """`run` for a walk: a shell, and what kwok's pods do not do."""

    def __init__(self, cluster: ControlPlane, folder: Path, stack: ExitStack) -> None:
        self._cluster = cluster
        self._stack = stack
        self._shell = Shell(folder / "bin", cluster.environment)
        self._values = folder / "played.json"
        self._values.write_text(json.dumps(OPERATOR_WORKS_ON))
        self._operator: ExitStack | None = None

    def __call__(self, command: str, folder: Path) -> tuple[int, str]:
        """Run it, with the pods' part before or after it."""
        if command.startswith(LEAVING):
            self._end_operator()
        if command == "kubectl get pricebooks":
            self._write_price_books(folder)
        if command.startswith("helm") and ("install " in command or "upgrade" in command):
            code, printed = self._shell(self._with_values(command), folder)
        else:
            code, printed = self._shell(command, folder)
        if code == 0 and INSTALLING in command:
            self._start_operator()
        return code, printed

    def _with_values(self, command: str) -> str:
        return command if "uninstall" in command else f"{command} --values {self._values}"

    def _write_price_books(self, folder: Path) -> None:
        for name, spec in yaml.safe_load((folder / "values.yaml").read_text())["priceBooks"].items():
            kind: dict[str, Any] = {"apiVersion": "costopt.dev/v1alpha1", "kind": "PriceBook"}
            self._cluster.apply({**kind, "metadata": {"name": name}, "spec": spec})

    def _start_operator(self) -> None:
        if self._operator is None:
            self._operator = self._stack.enter_context(ExitStack())
            account = self._cluster.kubeconfig_for_service_account(NAMESPACE, ACCOUNT)
            self._operator.enter_context(OperatorProcess(self._cluster, account))

    def _end_operator(self) -> None:
        if self._operator is not None:
            self._operator.close()
            self._operator = None


@contextmanager
def a_played_cluster(control_plane: ControlPlane, folder: Path) -> Iterator[Played]:
    with ExitStack() as stack:
        control_plane.write_log("default", "all", json.dumps(LINE, separators=(",", ":")))
        yield Played(control_plane, folder, stack)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_way_of_the_pages_from_an_empty_cluster_until_the_operator_is_gone_goes_as_shown(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    here = lay_out(tmp_path / "here")
    played(here / "manifests/samples/quickstart-cluster.yaml")
    for name in ("quickstart-cluster.yaml", "changed.yaml"):
        played(here / name, Play(stage="train", run_seconds=15))
    played(here / "night-run.yaml", Play(stage="train", run_seconds="forever"))
    with a_played_cluster(own_control_plane, tmp_path) as run:
        walked = [each for leg in JOURNEY for each in walk(leg, run, here, {OF_A_LONGER_RUN: ""})]
    assert len(walked) > 25
    assert OF_A_LONGER_RUN in read("docs/using-a-cluster.md")
    problems = [each.problem for each in walked if each.problem]
    assert not problems, "\n\n".join(problems)
    assert own_control_plane.get("costoptjobs", namespace="default")["items"] == []
