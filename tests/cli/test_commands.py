"""The command line itself: its commands, its help, its speed, its exit codes."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from builders.cli import costopt, environment, write_manifest
from builders.local import job, runner_in
from builders.on_cluster import at_home
from costopt.cli import COMMANDS, function_name
from costopt.render.text import to_yaml


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_says_there_what_it_says_itself(name: str, tmp_path: Path) -> None:
    module, line = COMMANDS[name]
    function = getattr(importlib.import_module(module), function_name(name))
    assert function.__doc__
    assert line.endswith(".")
    helped = costopt(tmp_path, name, "--help")
    assert helped.returncode == 0
    assert "Usage: " in helped.stdout


def test_help_lists_all_commands_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['costopt', '--help']\nimport costopt.cli\n"
        "try: costopt.cli.main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'kopf', 'kubernetes', 'pydantic', 'rich', 'yaml', 'numpy'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *listing, imported = answer.stdout.strip().splitlines()
    assert imported == "[]"
    for name, (_, line) in COMMANDS.items():
        assert any(name in row and line in row for row in listing), name


@pytest.mark.parametrize("name", ["run", "lr-find", "plan", "status", "logs", "cost", "validate"])
def test_no_command_imports_torch_or_kopf(name: str, tmp_path: Path) -> None:
    code = (
        f"import sys, {COMMANDS[name][0]}; print(sorted({{'torch', 'kopf', 'kubernetes', 'numpy'}} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_an_unknown_command_is_bad_input(tmp_path: Path) -> None:
    answer = costopt(tmp_path, "rnu")
    assert answer.returncode == 2
    assert "rnu" in answer.stderr


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert costopt(tmp_path, "--version").stdout.startswith("costopt ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "missing.yaml"), "missing.yaml:1: file: cannot be read (No such file or directory)"),
        (("run", "."), ".:1: file: cannot be read (Is a directory)"),
        (("plan", "missing.yaml"), "missing.yaml:1: file: cannot be read"),
        (("run", "empty.yaml"), "empty.yaml:1: document: is empty"),
        (("run", "book.yaml"), "book.yaml must hold exactly one CostOptJob; there is none"),
        (("run", "twice.yaml"), "twice.yaml must hold exactly one CostOptJob; there are 2"),
        (
            ("run", "unpriced.yaml"),
            "spec.priceBookName is other, and there is no PriceBook of that name (sample is there)",
        ),
        (
            ("run", "job.yaml", "--price-book", "book.yaml"),
            "there must be just one PriceBook named sample; there are 2",
        ),
        (("run", "plain.yaml", "--price-book", "book.yaml"), "set spec.priceBookName to sample"),
        (("run", "future.yaml"), "cpu has no price yet: add a row with an effectiveFrom of today"),
        (("run", "job.yaml", "--run-dir", "text.txt"), "text.txt cannot be used as a run folder"),
        (("run", "job.yaml", "--run-dir", "."), "is not a run folder and not empty"),
        (("run", "gpus.yaml"), "GPUs in all, and this machine has 0"),
        (("status",), "there is no run folder in runs/ here"),
        (("status", "nowhere"), "nowhere does not exist; name the folder that `costopt run` made"),
        (("cost", "."), "is not a run folder (it has no job.json)"),
        (("logs", "text.txt"), "text.txt is not a folder"),
        (("status", "a", "--run-dir", "b"), "the run folder must be given once"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence_with_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    at_home(monkeypatch, tmp_path, None)
    text = write_manifest(tmp_path).read_text()
    document, book = yaml.safe_load_all(text)
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "book.yaml").write_text(to_yaml([book]))
    (tmp_path / "twice.yaml").write_text(to_yaml([document, document]))
    (tmp_path / "plain.yaml").write_text(
        to_yaml([{**document, "spec": {k: v for k, v in document["spec"].items() if k != "priceBookName"}}])
    )
    (tmp_path / "unpriced.yaml").write_text(text.replace("priceBookName: sample", "priceBookName: other"))
    (tmp_path / "future.yaml").write_text(text.replace("2020-01-01", "2999-01-01"))
    node = {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}}
    on_gpus = {**document["spec"], "train": {**document["spec"]["train"], "resourcesPerNode": node}}
    (tmp_path / "gpus.yaml").write_text(to_yaml([{**document, "spec": on_gpus}, book]))

    answer = costopt(tmp_path, *arguments)
    assert said in answer.stderr
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr


def test_all_mistakes_of_a_manifest_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    wrong = manifest.read_text().replace("numNodes: 2", "numNodes: two").replace("totalSteps: 60", "totalSteps: 0")
    manifest.write_text(wrong)
    answer = costopt(tmp_path, "run", "job.yaml")
    assert answer.returncode == 2
    assert "numNodes" in answer.stderr
    assert "totalSteps" in answer.stderr
    assert all(line.startswith("job.yaml:") for line in answer.stderr.splitlines())
    assert not (tmp_path / "runs").exists()


def test_plan_prints_objects_that_kubectl_reads_and_processes_that_run_starts(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    objects = list(yaml.safe_load_all(costopt(tmp_path, "plan", "job.yaml").stdout))
    assert [(child["kind"], child["metadata"]["name"]) for child in objects] == [
        ("NetworkPolicy", "tiny-peers"),
        ("ConfigMap", "tiny-train-a0"),
        ("Service", "tiny-train-a0"),
        ("Job", "tiny-train-a0"),
        ("Job", "tiny-int8-a0"),
    ]
    assert json.loads(costopt(tmp_path, "plan", "job.yaml", "--output", "json").stdout)["items"] == objects
    local = json.loads(costopt(tmp_path, "plan", "job.yaml", "--target", "local", "--output", "json").stdout)
    assert [process["name"] for process in local["processes"]] == [
        "tiny-train-a0-0",
        "tiny-train-a0-1",
        "tiny-int8-a0-0",
    ]
    assert not (tmp_path / "runs").exists()


def finished_run(tmp_path: Path) -> Path:
    runner_in(tmp_path / "runs/tiny", job(priceBookName="sample"), "fail once").run()
    return tmp_path


def test_status_and_cost_of_a_finished_run_read_as_text_and_as_json(tmp_path: Path) -> None:
    finished_run(tmp_path)
    text = costopt(tmp_path, "status").stdout
    assert "tiny: Succeeded" in text
    assert "ProcessFailed (attempt 0, replica 1, exit code 7)" in text
    status = json.loads(costopt(tmp_path, "status", "runs/tiny", "--output", "json").stdout)
    assert status == json.loads((tmp_path / "runs/tiny/status.json").read_text())
    bill = json.loads(costopt(tmp_path, "cost", "--run-dir", "runs/tiny", "--output", "json").stdout)
    assert bill == status["bill"]
    assert bill["listCost"] in costopt(tmp_path, "cost").stdout


def test_logs_are_chosen_by_stage_attempt_and_index(tmp_path: Path) -> None:
    finished_run(tmp_path)
    (tmp_path / "runs/tiny/logs/tiny-train-a0-1.log").write_text("one\ntwo\nthree")
    latest = costopt(tmp_path, "logs")
    assert (latest.returncode, latest.stdout) == (0, "")
    assert costopt(tmp_path, "logs", "--attempt", "0", "--index", "1").stdout == "one\ntwo\nthree\n"
    as_json = costopt(tmp_path, "logs", "--attempt", "0", "--index", "1", "--tail", "1", "--output", "json").stdout
    assert json.loads(as_json) == {"replica": "tiny-train-a0-1", "line": "three"}
    tail = costopt(tmp_path, "logs", "--attempt", "0", "--tail", "2", "--follow").stdout
    assert tail == "tiny-train-a0-1 | two\ntiny-train-a0-1 | three\n"
    for wrong, said in [
        (("--stage", "int9"), "--stage must be one of train; it is int9"),
        (("--attempt", "5"), "--attempt of train must be from 0 to 1; it is 5"),
        (("--index", "9"), "--index of train must be from 0 to 1; it is 9"),
    ]:
        refused = costopt(tmp_path, "logs", *wrong)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert said in refused.stderr


def test_a_damaged_status_is_named_in_one_sentence(tmp_path: Path) -> None:
    finished_run(tmp_path)
    (tmp_path / "runs/tiny/status.json").write_text("{")
    for command in ("status", "cost"):
        answer = costopt(tmp_path, command)
        assert answer.returncode == 2
        assert "status.json is damaged" in answer.stderr
        assert len(answer.stderr.splitlines()) == 1


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    finished_run(tmp_path)
    (tmp_path / "runs/tiny/logs/tiny-train-a1-0.log").write_text("line\n" * 200_000)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "costopt.cli", "logs"]
    answer = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
        check=False,
    )
    os.close(write)
    assert "Traceback" not in answer.stderr
