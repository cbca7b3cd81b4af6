"""`costopt cache`: the list, what is cleared, and what is refused."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from builders.cli import costopt
from costopt import caches
from costopt.cli.cache import cache
from costopt.refused import Refused

KEY, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder with two caches, of 300 and of 2000 bytes."""
    folder = tmp_path / "run"
    for name, num_bytes in ((KEY, 300), (OTHER, 2000)):
        (folder / "cache" / name).mkdir(parents=True)
        (folder / "cache" / name / "train.bin").write_bytes(bytes(num_bytes))
        (folder / "cache" / f".{name}.used").write_text(f"text {name[0]}, Byte")
    (folder / ".costopt-storage").touch()
    return folder


def said(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(cache)
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, Refused):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def left(run_dir: Path) -> list[str]:
    return sorted(each.name for each in caches.caches_in(run_dir / "cache"))


def test_caches_are_listed_with_what_they_are_of(run_dir: Path) -> None:
    told = said("list", str(run_dir))
    assert "2 caches of 2.25 KiB" in told
    assert "text a, Byte" in told
    assert said("list", "--storage", str(run_dir)) == told
    plain = json.loads(said("list", str(run_dir), "--output", "json"))
    assert {each["name"]: (each["kind"], each["bytes"], each["of"]) for each in plain} == {
        KEY: ("Tokens", 300, "text a, Byte"),
        OTHER: ("Tokens", 2000, "text b, Byte"),
    }
    (run_dir.parent / "new").mkdir()
    (run_dir.parent / "new" / "job.json").touch()
    assert said("list", str(run_dir.parent / "new")) == "there are no caches"


@pytest.mark.parametrize(
    ("options", "stays"),
    [
        (["--all"], []),
        (["--keep-bytes", "0"], []),
        (["--keep-bytes", "1Mi"], [KEY, OTHER]),
        (["--older-than", "1d"], [KEY, OTHER]),
        (["--older-than", "0m"], []),
    ],
)
def test_what_is_asked_for_is_cleared(run_dir: Path, options: list[str], stays: list[str]) -> None:
    told = said("clear", str(run_dir), *options, "--yes")
    assert left(run_dir) == stays
    assert told.startswith(f"cleared {2 - len(stays)} caches of")


def test_what_a_process_uses_is_kept_and_named(run_dir: Path) -> None:
    caches.hold(run_dir / "cache" / KEY, "text a, Byte")
    told = said("clear", str(run_dir), "--all", "--yes")
    caches.let_go(run_dir / "cache" / KEY)
    assert "cleared 1 cache of 1.95 KiB" in told
    assert f"kept 1 cache of 300 B, which a process uses, or whose locks cannot be taken: {KEY}" in told
    assert left(run_dir) == [KEY]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["clear", "RUN"], "must be said by --older-than and --keep-bytes, or by --all"),
        (["clear", "RUN", "--all", "--older-than", "1d"], "must be said by"),
        (["clear", "RUN", "--all"], "must be confirmed: at a terminal, or with --yes"),
        (["clear", "RUN", "--older-than", "month", "--yes"], "--older-than must be a number with m, h or d"),
        (["clear", "RUN", "--keep-bytes", "much", "--yes"], "--keep-bytes must be bytes, such as 20Gi"),
        (["clear", "RUN", "--keep-bytes", "-1", "--yes"], "--keep-bytes must be bytes, such as 20Gi"),
        (["list", "RUN", "--all"], "are for `costopt cache clear`"),
        (["list"], "the storage must be named once"),
        (["list", "RUN", "--storage", "RUN"], "the storage must be named once"),
        (["list", "."], "must be a run folder or a job's storage, but has neither job.json nor .costopt-storage"),
    ],
)
def test_what_is_not_meant_is_refused_and_clears_nothing(run_dir: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        said(*(str(run_dir) if argument == "RUN" else argument for argument in arguments))
    assert left(run_dir) == [KEY, OTHER]


def test_the_program_has_the_command(tmp_path: Path) -> None:
    answer = costopt(tmp_path, "cache", "list", ".")
    assert answer.returncode == 2
    assert answer.stderr.startswith("costopt cache: . must be a run folder")
