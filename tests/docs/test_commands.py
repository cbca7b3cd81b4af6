"""The commands of the pages that need no cluster, run as they stand; and the walk through those that do, on a stage."""

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from builders.docs import read
from builders.docs_output import difference
from builders.docs_shell import Shell
from builders.docs_walk import HERE, JOURNEY, NEEDS, NOTHING_IS_INSTALLED, Leg, Need, lay_out, walk
from builders.fake_api import FakeApi, refused, serving
from builders.local import job

LIST = "/apis/costopt.dev/v1alpha1/namespaces/default/costoptjobs"
TROUBLE = Leg("docs/using-a-cluster.md", "When it does not work")


@pytest.mark.parametrize("leg", HERE, ids=lambda leg: f"{leg.page}: {leg.heading}")
def test_commands_that_need_no_cluster_print_what_is_shown(tmp_path: Path, leg: Leg) -> None:
    shell = Shell(tmp_path / "bin")
    walked = list(walk(leg, shell, lay_out(tmp_path / "here")))
    assert walked
    assert [each.problem for each in walked if each.problem] == []


@pytest.fixture
def four_clusters(tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig with a context for each trouble that the page shows."""
    apis = {"test": FakeApi(), "without-chart": FakeApi(), "expired": FakeApi()}
    apis["test"].add(LIST, job(name="quickstart-cluster").to_plain())
    apis["without-chart"].instead["GET", LIST] = (404, "404 page not found\n")
    apis["expired"].instead["GET", LIST] = refused(401, "Unauthorized", "Unauthorized")
    with ExitStack() as stack:
        urls = {name: stack.enter_context(serving(api)) for name, api in apis.items()}
        urls["gone"] = "https://127.0.0.1:1"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": name, "cluster": {"server": url}} for name, url in urls.items()],
            "users": [{"name": "ada", "user": {"token": "a-token"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": "ada"}} for name in urls],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))
        yield tmp_path / "kubeconfig"


def test_each_trouble_is_told_in_the_sentence_that_is_shown(tmp_path: Path, four_clusters: Path) -> None:
    shell = Shell(tmp_path / "bin", {"KUBECONFIG": str(four_clusters), "HOME": str(tmp_path)})
    commands = TROUBLE.commands
    assert len(commands) == 4
    for command in commands:
        code, printed = shell(command.text, tmp_path)
        assert (code, difference(command.shown or "", printed)) == (2, ""), command.place


def exit_codes() -> dict[int, str]:
    """The README's table."""
    rows = re.findall(r"^\| ([\d, ]+) \| (.*) \|$", read("README.md"), re.MULTILINE)
    return {int(code): meaning for codes, meaning in rows for code in codes.split(",")}


ENDS = {
    0: ("true", {}),
    1: ("exit 5", {"restarts": {"maxFailures": 0}}),
    2: ("true", {"suspended": True}),
    3: ("true", {"suspend": True}),
}
SIGNALS = {130: signal.SIGINT, 129: signal.SIGHUP, 143: signal.SIGTERM}


def write_job(folder: Path, script: str, **spec: object) -> None:
    node = {"requests": {"cpu": 1, "memory": "1Gi"}}
    train = {"resourcesPerNode": node, "command": ["sh", "-c", script]}
    document = {
        "apiVersion": "costopt.dev/v1alpha1",
        "kind": "CostOptJob",
        "metadata": {"name": "tiny"},
        "spec": {"train": train, **spec},
    }
    (folder / "job.yaml").write_text(json.dumps(document))


def test_the_readme_has_every_exit_code_of_run_and_no_other(tmp_path: Path) -> None:
    assert exit_codes().keys() == ENDS.keys() | SIGNALS.keys()
    _, told = Shell(tmp_path / "bin")("costopt run --help", tmp_path)
    (sentence,) = re.findall(r"Exit codes: (.*?)\.\s", " ".join(told.split()))
    assert {int(code) for code in re.findall(r"\b\d+\b", sentence)} == exit_codes().keys()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="replicas run under Linux")
def test_run_ends_with_each_exit_code_of_the_readme(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the trainer is not installed")
    shell = Shell(tmp_path / "bin")
    running = {}
    for code, sent in SIGNALS.items():
        (tmp_path / str(code)).mkdir()
        write_job(tmp_path / str(code), "touch begun; exec sleep 600")
        running[code] = (sent, shell.start("exec costopt run job.yaml", tmp_path / str(code)))
    for code, (script, spec) in ENDS.items():
        (tmp_path / str(code)).mkdir()
        write_job(tmp_path / str(code), script, **spec)
        ended, printed = shell("costopt run job.yaml", tmp_path / str(code))
        assert ended == code, (exit_codes()[code], printed)
    for code, (sent, process) in running.items():
        deadline = time.monotonic() + 60
        while not (tmp_path / str(code) / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(sent)
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == code, (exit_codes()[code], printed)


class Stage:
    """A `run` that plays a perfect cluster: it prints what is shown, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known = {each.text: each for leg in JOURNEY for each in leg.commands}

    def __call__(self, command: str, folder: Path) -> tuple[int, str]:
        self.asked.append(command)
        known = self.known.get(command)
        code = NEEDS.get(command, Need()).code if known else 0
        return code, (known.shown or "") if known else ""


def test_the_journey_runs_each_command_once_in_the_order_of_the_pages_after_what_it_needs(tmp_path: Path) -> None:
    stage, folder = Stage(), lay_out(tmp_path / "here")
    walked = [each for leg in JOURNEY for each in walk(leg, stage, folder)]
    assert [each.problem for each in walked if each.problem] == []
    shown = [each.text for leg in JOURNEY for each in leg.commands if not NEEDS.get(each.text, Need()).elsewhere]
    assert [each.command.text for each in walked] == shown
    first = shown[0]
    assert stage.asked[: len(NOTHING_IS_INSTALLED) + 1] == [*NOTHING_IS_INSTALLED, first]


def test_a_walk_tells_of_wrong_output_wrong_ends_and_needs_that_are_not_met(tmp_path: Path) -> None:
    stage, folder = Stage(), lay_out(tmp_path / "here")

    def broken(command: str, where: Path) -> tuple[int, str]:
        code, printed = stage(command, where)
        if command == "helm uninstall costopt --namespace costopt-system":
            return code, printed.replace("pricebooks", "pricelists")
        if command == "costopt resume night-run":
            return 1, printed
        if command.startswith("kubectl delete pricebook"):
            return 1, "no"
        return code, printed

    problems = [each.problem for leg in JOURNEY for each in walk(leg, broken, folder) if each.problem]
    assert len(problems) == 3
    assert "kubectl delete pricebook sample --ignore-not-found ended with 1: no" in problems[0]
    assert "costopt resume night-run\nit ended with 1, not 0" in problems[1]
    assert "+[CustomResourceDefinition] pricelists.costopt.dev" in problems[2]


def test_what_is_otherwise_than_in_the_pages_is_replaced_in_commands_files_and_outputs(tmp_path: Path) -> None:
    stage = Stage()
    replace = {"images.example/": "", "context test": "context mine"}
    folder = lay_out(tmp_path / "here", replace)
    assert yaml.safe_load((folder / "values.yaml").read_text())["image"]["repository"] == "costopt-operator"
    assert "images.example" not in (folder / "kustomization.yaml").read_text()
    walked = list(walk(Leg("docs/using-a-cluster.md", "Submit"), stage, folder, replace))
    assert "-Job quickstart-cluster would be submitted (namespace default of the cluster of context mine)" in (
        walked[0].problem
    )


def test_the_files_of_a_walk_are_the_jobs_that_the_pages_speak_of(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "here")
    shell = Shell(tmp_path / "bin")
    code, printed = shell("costopt validate quickstart-cluster.yaml changed.yaml night-run.yaml", folder)
    assert (code, printed) == (0, "5 documents valid\n")
    (line,) = re.findall(r"^changed.yaml:(\d+): spec: train cannot", read("docs/using-a-cluster.md"), re.MULTILINE)
    assert (folder / "changed.yaml").read_text().splitlines()[int(line) - 1] == "spec:"
