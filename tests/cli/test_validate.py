"""`costopt validate` reads any number of files and answers every mistake; `costopt crd` prints what kubectl takes."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from cases.mistakes import plain_job, plain_price_book

ROOT = Path(__file__).resolve().parents[2]


def costopt(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "costopt.cli", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def written(path: Path, *documents: object) -> Path:
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_valid_files_are_counted_and_exit_with_zero(tmp_path: Path) -> None:
    first = written(tmp_path / "job.yaml", plain_job(), plain_price_book())
    second = written(tmp_path / "book.yaml", plain_price_book())
    answer = costopt("validate", first, second)
    assert (answer.returncode, answer.stdout) == (0, "3 documents valid\n")


def test_mistakes_of_all_files_are_answered_in_one_go_and_exit_with_two(tmp_path: Path) -> None:
    job = plain_job()
    job["spec"]["train"]["numNodes"] = 0
    book = plain_price_book(currency="usd")
    first, second = written(tmp_path / "job.yaml", job), written(tmp_path / "book.yaml", book)
    answer = costopt("validate", first, second)
    assert answer.returncode == 2
    line = first.read_text().splitlines().index("    numNodes: 0") + 1
    of_job, of_book = answer.stderr.splitlines()
    server = "Invalid value: 0: spec.train.numNodes in body should be greater than or equal to 1"
    assert of_job == f"{first}:{line}: spec.train.numNodes: {server}"
    assert of_book.startswith(f"{second}:6: spec.currency: Invalid value: ")
    assert "it must be a currency code of three capital letters" in of_book


def test_a_price_that_begins_in_the_future_is_named_with_its_line(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    book = plain_price_book()
    book["spec"]["prices"][1]["effectiveFrom"] = str(today + timedelta(days=1))
    answer = costopt("validate", written(tmp_path / "book.yaml", book))
    assert answer.returncode == 2
    assert (
        "spec.prices[1].effectiveFrom: memory has no price yet: add a row with an effectiveFrom of today"
        in answer.stderr
    )


def test_a_price_change_that_is_announced_for_the_future_is_valid(tmp_path: Path) -> None:
    book = plain_price_book()
    later = {**book["spec"]["prices"][0], "effectiveFrom": "2999-01-01"}
    book["spec"]["prices"].append(later)
    assert costopt("validate", written(tmp_path / "book.yaml", book)).returncode == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing.yaml", "cannot be read (No such file or directory)"), (".", "cannot be read (Is a directory)")],
)
def test_a_file_that_cannot_be_read_is_answered_with_one_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    answer = costopt("validate", tmp_path / name)
    assert answer.returncode == 2
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr


def test_every_sample_is_valid() -> None:
    samples = sorted((ROOT / "manifests/samples").glob("*.yaml"))
    answer = costopt("validate", *samples)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_the_printed_crds_are_those_of_both_kinds() -> None:
    answer = costopt("crd")
    kinds = [crd["spec"]["names"]["kind"] for crd in yaml.safe_load_all(answer.stdout)]
    assert (answer.returncode, kinds) == (0, ["CostOptJob", "PriceBook"])


@pytest.mark.parametrize("command", [["validate", "-"], ["plan", "-"]])
def test_a_dash_is_standard_input_and_other_kinds_are_left_alone(command: list[str]) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}
    answer = costopt(*command, given=yaml.safe_dump_all([space, plain_job()]))
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == (
        "standard input:1: Namespace demo: is neither a CostOptJob nor a PriceBook, and is left alone\n"
    )


def test_mistakes_in_standard_input_are_named_so() -> None:
    answer = costopt("validate", "-", given="kind: CostOptJob\n")
    assert answer.returncode == 2
    assert answer.stderr.startswith("standard input:1: apiVersion: must be")


def test_standard_input_that_is_closed_is_one_sentence() -> None:
    command = f"exec {sys.executable} -m costopt.cli validate - <&-"
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1), answer.stderr
    assert "cannot be read" in answer.stderr


def test_a_file_without_end_is_one_sentence() -> None:
    answer = costopt("validate", "/dev/zero")
    assert answer.returncode == 2
    assert answer.stderr == "/dev/zero:1: document: must be at most 1,048,576 bytes\n"
