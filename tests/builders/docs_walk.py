"""The pages as walks: their commands in page order, each with its preconditions.

    folder = lay_out(tmp_path, replace)
    for leg in JOURNEY:
        for walked in walk(leg, run, folder, replace):
            assert not walked.problem, walked.problem

`run(command, folder)` runs a shell line in `folder` to its end and returns its exit code and all its output; helm,
kubectl, costopt and kubectl-costopt are on its PATH, and KUBECONFIG leads to the cluster. Some commands last as long
as a job: it should wait for half an hour. `replace` maps texts of the pages to local ones, such as
`{"images.example/": "", "context test": "context mine"}`.

A journey adds the contexts `expired` and `gone` to the kubeconfig, and needs the namespace `default` for itself.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builders.docs import ROOT, Block, Command, blocks, commands_of
from builders.docs_output import difference

Run = Callable[[str, Path], tuple[int, str]]


@dataclass(frozen=True)
class Leg:
    """A page, or the part below one of its headings."""

    page: str
    heading: str | None = None
    """None: the whole page."""

    @property
    def blocks(self) -> list[Block]:
        """Its blocks in their order."""
        return [block for block in blocks(self.page) if self.heading in (None, block.heading)]

    @property
    def commands(self) -> list[Command]:
        """Its commands in their order."""
        return [command for block in self.blocks for command in commands_of(block)]


@dataclass(frozen=True)
class Need:
    """What a command needs that the page does not say, because its reader has it or waits for it."""

    before: tuple[str, ...] = ()
    """Commands that run first; each must succeed."""
    code: int = 0
    """Its exit code."""
    elsewhere: str = ""
    """Why it does not run here, and where it does; empty: it runs."""


@dataclass(frozen=True)
class Walked:
    """One command that was run."""

    command: Command
    code: int
    printed: str
    problem: str
    """Empty if it ended and printed as shown."""


HERE = (Leg("README.md", "Commands"),)
"""What needs no cluster."""

FOR_A_TEAM = Leg("docs/installing.md", "For a team's namespaces only")
"""Walked by an administrator and a team in tests/cluster/test_installed_elsewhere.py."""

JOURNEY = (
    Leg("README.md", "On a cluster"),
    Leg("docs/installing.md", "With Helm"),
    Leg("docs/using-a-cluster.md"),
    Leg("docs/installing.md", "Upgrading"),
    Leg("docs/installing.md", "Uninstalling"),
    Leg("docs/installing.md", "With kubectl alone"),
)
"""From an empty cluster until the operator is removed; the definitions stay. Each leg also works alone."""

NOT_RUN = {
    "make install": "it has been run where this is",
    "make test": "it runs this very test",
    "costopt data cleaned.yaml --dry-run": "tests/cli/test_data.py runs it, on a smaller text",
    "costopt artifacts runs/quickstart --verify": "tests/cli/test_artifacts.py runs it, on other artifacts",
    "costopt artifacts runs/quickstart --copy-to s3://bucket/quickstart": "needs a bucket; "
    "tests/local/test_artifact_copies.py has one in memory",
    'costopt try runs/quickstart/artifacts/model "import os"': "tests/cli/test_try.py runs it, on a smaller model",
    "costopt report runs/quickstart": "tests/cli/test_report.py runs it, of another run",
    "make test-slow": "CI runs it",
    "make test-buckets": "CI runs it",
    "make test-cluster": "CI runs it",
    "make lint": "CI runs it",
    "make fuzz": "it is the same tests as in tests/oracle, with more seeds",
    "make e2e": "CI runs it",
    ".ci/run": "it is what CI runs, from a fresh clone, the tests included",
    "docker build --file images/operator.Dockerfile --tag costopt-operator:0.1.0 .": "needs a Docker engine; "
    "tests/charts/test_images.py reads the Dockerfiles, and the end-to-end tests build them with buildah",
    "docker build --file images/trainer.Dockerfile --tag costopt-trainer:0.1.0 .": "as the operator's",
}
"""Commands that no test runs as written, and why."""

DEFINITIONS = "costoptjobs.costopt.dev pricebooks.costopt.dev"
NOTHING_IS_INSTALLED = (
    f"if kubectl get crd {DEFINITIONS}; then kubectl delete costoptjobs --all --timeout=3m; fi",
    "helm uninstall costopt --namespace costopt-system --ignore-not-found --wait --timeout=5m",
    f"kubectl delete crd {DEFINITIONS} --ignore-not-found --timeout=3m",
)
RELEASE = "costopt --namespace costopt-system"
CHART_IS_INSTALLED = (
    f"helm status {RELEASE} || helm install {RELEASE} charts/costopt --create-namespace --values values.yaml",
    "kubectl --namespace costopt-system rollout status deployment/costopt-operator --timeout=5m",
)
NO_QUICKSTART = (
    "kubectl delete costoptjob quickstart-cluster --ignore-not-found --timeout=3m",
    "kubectl delete pricebook sample --ignore-not-found",
)

THIS_CLUSTER = "$(kubectl config view --minify --output=jsonpath='{.clusters[0].name}')"

NEEDS: dict[str, Need] = {
    "costopt run mistaken.yaml": Need(code=2),
    "helm install costopt charts/costopt --namespace costopt-system --create-namespace": Need(NOTHING_IS_INSTALLED),
    "helm install costopt charts/costopt --namespace costopt-system --create-namespace --values values.yaml": Need(
        NOTHING_IS_INSTALLED
    ),
    "helm upgrade costopt charts/costopt --namespace costopt-system --set replica=3": Need(code=1),
    "costopt submit quickstart-cluster.yaml --dry-run": Need((*CHART_IS_INSTALLED, *NO_QUICKSTART)),
    "costopt submit changed.yaml": Need(code=2),
    "costopt status": Need(
        (
            "costopt submit night-run.yaml",
            "kubectl wait --for=jsonpath='{.status.progress.step}' costoptjob/night-run --timeout=15m",
        )
    ),
    "costopt status quickstart-cluser": Need(code=2),
    "costopt suspend night-run": Need(
        ("kubectl wait --for=jsonpath='{.status.progress.lastCheckpointStep}' costoptjob/night-run --timeout=15m",)
    ),
    "costopt status --context without-chart": Need(elsewhere="this cluster has the chart; see tests/docs"),
    "costopt status --context expired": Need(
        (
            "kubectl config set-credentials expired --token=no-longer-a-token",
            f"kubectl config set-context expired --user=expired --cluster={THIS_CLUSTER}",
        ),
        code=2,
    ),
    "costopt status --context gone": Need(
        (
            "kubectl config set-cluster gone --server=https://127.0.0.1:1",
            "kubectl config set-context gone --cluster=gone",
        ),
        code=2,
    ),
    "helm upgrade costopt charts/costopt --namespace costopt-system --values values.yaml": Need(CHART_IS_INSTALLED),
    "helm uninstall costopt --namespace costopt-system": Need(CHART_IS_INSTALLED),
    "kubectl apply -k manifests/install": Need(
        (*NOTHING_IS_INSTALLED, "kubectl delete namespace costopt-system --ignore-not-found --timeout=5m")
    ),
}
"""By command; one that is not here needs only those before it, and succeeds."""

OF_A_LONGER_RUN = "train: step 40/200  loss 4.0920  ...\n"
"""Log line in the pages of a training that lasts until its log is read, which happens twice a minute."""

FILES = {"values.yaml": "With Helm", "kustomization.yaml": "With kubectl alone"}
"""Files that a reader writes, and the section of docs/installing.md with their text."""


SHORTER = {
    "maxBytes: 4000000": "maxBytes: 400000",
    "warmupSteps: 40": "warmupSteps: 20",
    "everySteps: 100": "everySteps: 40",
}
LONG, SHORT = "      totalSteps: 200\n", "      totalSteps: 40\n"


def lay_out(folder: Path, replace: Mapping[str, str] | None = None, *, shorter: bool = False) -> Path:
    """What a reader has: the chart, the manifests, and the files that the pages ask for.

    `shorter`: the reader's quickstart trains less than the sample, which README.md runs as it is.
    """
    for name in ("charts/costopt", "manifests"):
        shutil.copytree(ROOT / name, folder / name)
    for name, heading in FILES.items():
        (text,) = (block.text for block in Leg("docs/installing.md", heading).blocks if block.info == "yaml")
        (folder / name).write_text(replaced(text, replace or {}))
    sample = (ROOT / "manifests/samples/quickstart-cluster.yaml").read_text()
    steps = LONG
    assert sample.count(steps) == 1
    if shorter:
        sample, steps = replaced(sample, {**SHORTER, LONG: SHORT}), SHORT
    (folder / "quickstart-cluster.yaml").write_text(sample)
    (folder / "changed.yaml").write_text(sample.replace(steps, "      totalSteps: 300\n"))
    long = sample.replace(steps, "      totalSteps: 60000\n").replace("name: quickstart-cluster", "name: night-run")
    (folder / "night-run.yaml").write_text(long.partition("\n---\n")[0])
    return folder


def walk(leg: Leg, run: Run, folder: Path, replace: Mapping[str, str] | None = None) -> Iterator[Walked]:
    """Run the commands of a leg as written, each after what it needs; go on even if one fails."""
    for command in leg.commands:
        need = NEEDS.get(command.text, Need())
        if need.elsewhere:
            continue
        for first in need.before:
            code, printed = run(first, folder)
            if code != 0:
                yield Walked(
                    command, code, printed, f"{command.place}: before it, {first} ended with {code}: {printed}"
                )
        code, printed = run(replaced(command.text, replace or {}), folder)
        problems = [f"it ended with {code}, not {need.code}: {printed}"] if code != need.code else []
        if command.shown is not None:
            problems.append(difference(replaced(command.shown, replace or {}), printed))
        told = "\n".join(filter(None, problems))
        yield Walked(command, code, printed, f"{command.place}: $ {command.text}\n{told}" if told else "")


def replaced(text: str, replace: Mapping[str, str]) -> str:
    """A text of a page with the replacements."""
    for there, here in replace.items():
        text = text.replace(there, here)
    return text
