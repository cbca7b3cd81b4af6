"""Every command, and whatever others have written for it to read: nothing raw reaches the terminal; no traceback.

The commands are taken from the table of commands, so a new one is in here by itself.
"""

import copy
import io
import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.artifacts import write_artifacts
from builders.fake_api import BOOKS, JOBS, PODS, FakeApi, serving, write_kubeconfig
from builders.hostile import one_of, within
from builders.local import job, price_book, runner_in
from builders.on_cluster import add_job, add_pod, condition, failed
from costopt.cli import COMMANDS, main
from costopt.cluster.api import LONGEST_LINE_BYTES, PIECE_BYTES
from costopt.local.lock import only_runner
from costopt.local.run_folder import RunFolder
from costopt.plan.decide import is_final
from costopt.refused import Refused
from costopt.render.text import to_yaml

ATTACK = (
    "\x1b]0;pwned\x07\x1b[2J\x1b[31mred\x9b1m\u202e\r\n\u2028 caf\u00e9 \u2713 \U0001f600 [bold]x[/bold] [/b] {0} %s"
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
RICHS_OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r")
SANE_EXITS = {0, 1, 2, 3, 130}
FOLLOWING = {"watch", "--follow", "--wait"}

FILES = ("evil.yaml",)
CALLS: dict[str, tuple[tuple[str, ...], ...]] = {
    "run": (("run", *FILES, "--run-dir", "run"), ("run", *FILES, "--run-dir", "run", "--output", "json")),
    "plan": (("plan", *FILES), ("plan", *FILES, "--output", "json")),
    "validate": (("validate", *FILES),),
    "submit": (("submit", *FILES), ("submit", *FILES, "--dry-run")),
    "status": (("status", "tiny"), ("status", "-A"), ("status", "./run"), ("status", "./run", "--output", "json")),
    "watch": (("watch", "tiny"), ("watch", "tiny", "--output", "json")),
    "logs": (
        ("logs", "tiny"),
        ("logs", "tiny", "--follow"),
        ("logs", "./run"),
        ("logs", "./run", "--tail", "2"),
        ("logs", "./run", "--output", "json"),
    ),
    "cost": (("cost", "tiny"), ("cost", "./run"), ("cost", "tiny", "--output", "json")),
    "artifacts": (
        ("artifacts", "tiny"),
        ("artifacts", "./run", "--verify"),
        ("artifacts", "./run", "--output", "json"),
        ("artifacts", "./run", "--copy-to", "copies"),
    ),
    "report": (("report", "tiny"), ("report", "./run")),
    "try": (("try", "./run", "text"),),
    "delete": (("delete", "tiny"), ("delete", "tiny", "--wait")),
    "crd": (("crd",),),
    "cache": (
        ("cache", "list", "run"),
        ("cache", "list", "run", "--output", "json"),
        ("cache", "clear", "run", "--all", "--yes"),
    ),
}
"""How a command is called; one that is not here, with the name of a job."""

CASES = [call for name in COMMANDS for call in CALLS.get(name, ((name, "tiny"),))]

HOSTILE = one_of(
    [
        *(ATTACK, ATTACK * 200, "x" * 100_000, "", "\x00", "NaN", "-1e999", "9" * 5000, "2026-13-45T99:99:99Z"),
        *("2026-03-04T12:00:00", None, True, -1, 2**63, 10**30, 0.5, [], {}, [ATTACK], {ATTACK: ATTACK}, [[[[None]]]]),
    ]
)


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Screen(io.TextIOWrapper):
    """A terminal of an encoding, or a pipe; what cannot be encoded is an error."""

    def __init__(self, encoding: str, *, is_terminal: bool) -> None:
        self.got = io.BytesIO()
        self._is_terminal = is_terminal
        super().__init__(self.got, encoding=encoding, errors="strict", newline="\n")

    def isatty(self) -> bool:
        return self._is_terminal

    def text(self) -> str:
        self.flush()
        return self.got.getvalue().decode(self.encoding)


def called(words: tuple[str, ...], encoding: str, *, is_terminal: bool) -> Ended:
    out, err = (Screen(encoding, is_terminal=is_terminal) for _ in range(2))
    code = 0
    with patch.object(sys, "argv", ["/usr/bin/costopt", *words]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, out.text(), err.text())


def manifests() -> list[dict[str, Any]]:
    return [job(priceBookName="sample").to_plain(), price_book().to_plain()]


@dataclass
class World:
    """A folder to be in, and a cluster."""

    folder: Path
    api: FakeApi
    ended_run: Path

    def fill(self) -> None:
        """As it is when nobody has done anything to it."""
        self.api.stored.clear()
        self.api.instead.clear()
        extra = {"conditions": [condition("Succeeded", "False", "InvalidData", "a sentence")]}
        owner = add_job(self.api, status={**failed(), **extra})
        add_pod(self.api, owner, "train", 0, 0, phase="Failed")
        waiting = {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}],
        }
        add_pod(self.api, owner, "train", 0, 1, **waiting)
        self.api.add(BOOKS, price_book().to_plain())
        self.api.instead["GET", f"{PODS}/tiny-train-a0-0-xyz/log"] = (200, "2026-03-04T12:00:00Z a line\n")
        self._looks(8)
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        shutil.copytree(self.ended_run, self.folder / "run")
        (self.folder / "evil.yaml").write_text(to_yaml(manifests()))

    def _looks(self, number: int) -> None:
        """After so many looks the job is gone, so that whoever waits for its end sees one."""
        path, left = f"{JOBS}/tiny", itertools.count(number, -1)

        def look() -> tuple[int, Any]:
            if next(left) <= 0:
                self.api.stored.pop(path, None)
            found = self.api.stored.get(path)
            if found is None:
                for pod in [stored for stored in self.api.stored if stored.startswith(PODS)]:
                    del self.api.stored[pod]
            return (200, found) if found else (404, {"kind": "Status", "details": {"name": "tiny", "kind": "x"}})

        self.api.instead["GET", path] = look


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    ended_run = tmp_path_factory.mktemp("ended") / "run"
    ended_run.mkdir()
    with only_runner(ended_run / "lock"):
        runner_in(ended_run, job(priceBookName="sample"), "finish").run()
    write_artifacts(ended_run)
    (ended_run / "metrics.jsonl").write_text('{"step": 1, "totalSteps": 2, "loss": "1.5", "learningRate": "0.1"}\n')
    api = FakeApi()
    with serving(api) as url, pytest.MonkeyPatch.context() as patches:
        patches.chdir(folder)
        patches.setenv("HOME", str(folder))
        patches.setenv("TERM", "xterm")
        patches.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        patches.setenv("KUBECONFIG", str(write_kubeconfig(folder / "kubeconfig", url)))
        for module in ("watch", "logs_of_job"):
            patches.setattr(f"costopt.cli.{module}.LOOK_EVERY_SECONDS", 0.01)
        for module in ("patience", "pod_logs"):
            patches.setattr(f"costopt.cluster.{module}.AGAIN_AFTER_SECONDS", 0.01)
        patches.setattr("costopt.cluster.patience.SECONDS", 0.2)
        patches.setattr("costopt.cluster.jobs.LOOK_EVERY_SECONDS", 0.01)
        yield World(folder, api, ended_run)


def places(plain: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in plain data."""
    entries = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [path, *(found for key, value in entries for found in places(value, (*path, key)))]


def values_in(plain: Any) -> Iterator[Any]:
    """Everything in plain data, itself included."""
    yield plain
    for value in plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ():
        yield from values_in(value)


def spoil(draw: st.DrawFn, plain: Any) -> Any:
    """The data with something else in one to three of its places."""
    spoiled = copy.deepcopy(plain)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([path for path in places(spoiled) if path]))
        place = spoiled
        for key in parents:
            place = place[key]
        if isinstance(place, dict) and draw(st.integers(0, 3)) == 0:
            place[ATTACK] = draw(HOSTILE)
        else:
            place[last] = draw(HOSTILE)
    return spoiled


def spoil_cluster(draw: st.DrawFn, api: FakeApi) -> None:
    for path in draw(st.lists(st.sampled_from(sorted(api.stored)), min_size=1, unique=True)):
        api.stored[path] = spoil(draw, api.stored[path])
    log = draw(st.sampled_from([ATTACK, "2026-03-04T12:00:00Z " + ATTACK, "\x00" * 9, "x" * 200_000, "\n" * 99]))
    api.instead["GET", f"{PODS}/tiny-train-a0-0-xyz/log"] = (200, log)


def spoil_folder(draw: st.DrawFn, folder: Path) -> None:
    plain = {path: path.read_text() for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".jsonl", ".log")}
    for path in draw(st.lists(st.sampled_from(sorted(plain)), min_size=1, max_size=3, unique=True)):
        if path.suffix == ".log":
            path.write_text(ATTACK * 50)
        else:
            lines = plain[path].splitlines() if path.suffix == ".jsonl" else [plain[path]]
            path.write_text("\n".join(json.dumps(spoil(draw, json.loads(line))) for line in lines))


@given(st.lists(HOSTILE, min_size=20))
def test_what_is_drawn_is_shared_with_no_other_draw(drawn: list[Any]) -> None:
    drawn_by_place = [value for one in drawn for value in values_in(one) if isinstance(value, dict | list)]
    assert len({id(value) for value in drawn_by_place}) == len(drawn_by_place)


@contextmanager
def nothing_is_run(folder: Path) -> Iterator[None]:
    """`run` reads the status first; of one that has not ended it would go on with the job, which is not meant here."""
    with suppress(Refused):
        if not is_final(RunFolder(folder / "run").status()):
            shutil.rmtree(folder / "run")
            (folder / "run").mkdir()
            (folder / "run/thesis.tex").touch()
    yield


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_every_call_is_one_that_the_command_takes(world: World, words: tuple[str, ...]) -> None:
    world.fill()
    with within(60), nothing_is_run(world.folder):
        ended = called(words, "utf-8", is_terminal=False)
    assert ended.code in SANE_EXITS
    assert "Usage:" not in ended.err, ended.err


@pytest.mark.parametrize("words", CASES, ids=" ".join)
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data(), encoding=st.sampled_from(["utf-8", "ascii"]), is_terminal=st.booleans())
def test_nothing_raw_reaches_the_terminal_whatever_others_have_written(
    world: World, words: tuple[str, ...], data: st.DataObject, encoding: str, is_terminal: bool
) -> None:
    world.fill()
    spoil_cluster(data.draw, world.api)
    spoil_folder(data.draw, world.folder / "run")
    if data.draw(st.booleans()):
        with suppress(ValueError):
            (world.folder / "evil.yaml").write_text(to_yaml(spoil(data.draw, manifests())), encoding="utf-8")
    # A job that does not end is followed until its user has seen enough.
    guard = within(5, then=KeyboardInterrupt) if FOLLOWING.intersection(words) else within(60)
    with guard, nothing_is_run(world.folder):
        ended = called(words, encoding, is_terminal=is_terminal)  # any exception but SystemExit fails the test
    assert ended.code in SANE_EXITS, ended
    for said in (ended.out, ended.err):
        shown = RICHS_OWN.sub("", said) if is_terminal else said
        assert OBEYED.findall(shown) == [], shown
        assert "Traceback" not in said
    if ended.code == 2 and words[0] not in ("validate", "submit", "plan", "run", "data", "lr-find"):
        assert ended.err.splitlines()[-1].startswith(f"costopt {words[0]}: "), ended


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "./" + "x" * 300])
@pytest.mark.parametrize("command", ["status", "logs", "cost"])
def test_a_name_that_no_file_can_have_is_refused_in_one_sentence(world: World, command: str, name: str) -> None:
    world.fill()
    ended = called((command, name), "utf-8", is_terminal=False)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1), ended


def test_a_log_whose_line_never_ends_is_printed_in_pieces(world: World) -> None:
    world.fill()
    world.api.instead["GET", f"{PODS}/tiny-train-a0-0-xyz/log"] = (200, "x" * (3 * LONGEST_LINE_BYTES))
    with within(60):
        ended = called(("logs", "tiny", "--index", "0"), "utf-8", is_terminal=False)
    pieces = ended.out.splitlines()
    assert sum(map(len, pieces)) == 3 * LONGEST_LINE_BYTES
    assert max(map(len, pieces)) < LONGEST_LINE_BYTES + PIECE_BYTES
