"""Ranks that hang: what each shows, and what that says of the gang. The clock is wound by hand."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builders.waiting import wait_for
from costopt import names
from costopt_trainer.heartbeat import Heartbeat, make_page, read_beat
from costopt_trainer.launch.hangs import Hang, Sight, Watch, find_hang, is_stopped, limit_of


def sight(rank: int, *, silent: float = 70, limit: float | None = 60, stopped: float = 0, **shown: int) -> Sight:
    """A rank that is in step 41, silent for too long."""
    return Sight(
        rank=rank,
        step=shown.get("step", 40),
        beats=shown.get("beats", 100),
        silent_milliseconds=int(1000 * silent),
        limit_milliseconds=None if limit is None else int(1000 * limit),
        stopped_milliseconds=int(1000 * stopped),
    )


def test_a_gang_of_which_one_rank_works_does_not_hang() -> None:
    assert find_hang([sight(0), sight(1, silent=59)], 60) is None
    assert find_hang([sight(0), sight(1, limit=300)], 60) is None, "it saves, and the others wait for it"
    assert find_hang([sight(0, limit=None)], 60) is None, "a program that gives no signs"
    assert find_hang([], 60) is None


HANGS: list[tuple[str, list[Sight], Hang]] = [
    (
        "fewer steps",
        [sight(0), sight(1), sight(2, step=39)],
        Hang(2, "no rank has shown a sign of work for 70 s: rank 2 finished step 39 while others wait in step 41"),
    ),
    (
        "less of the same step",
        [sight(0, beats=99), sight(1), sight(2)],
        Hang(0, "no rank has shown a sign of work for 70 s: in step 41, rank 0 is behind the others"),
    ),
    (
        "all alike",
        [sight(0, silent=61), sight(1)],
        Hang(None, "no rank has shown a sign of work for 61 s: all are in step 41; their stacks are in the log"),
    ),
    (
        "one alone",
        [sight(0, step=0)],
        Hang(
            0, "no rank has shown a sign of work for 70 s: all are before their first step; their stacks are in the log"
        ),
    ),
    (
        "stopped",
        [sight(0, silent=1), sight(3, stopped=60)],
        Hang(3, "rank 3 has been stopped (SIGSTOP) after step 40 for 60 s while others wait in step 41"),
    ),
]


@pytest.mark.parametrize(("gang", "hang"), [case[1:] for case in HANGS], ids=[case[0] for case in HANGS])
def test_which_rank_is_behind(gang: list[Sight], hang: Hang) -> None:
    assert find_hang(gang, 60) == hang


class Page:
    """A rank's page, written and read with a clock of nanoseconds."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "page"
        make_page(self.path)
        self.now = 10**15
        self.heart = Heartbeat(lambda: self.now)
        self.heart.attach({names.ENV_HEARTBEAT_FILE: str(self.path)})

    def passes(self, seconds: float) -> None:
        """Time passes."""
        self.now += int(seconds * 10**9)

    def limit(self, asked: float | None = None) -> float | None:
        """How long it may be silent now."""
        return limit_of(read_beat(self.path), asked, gives_signs=True)


def test_how_long_a_rank_may_be_silent_follows_from_what_it_does(tmp_path: Path) -> None:
    page = Page(tmp_path)
    assert page.limit() == 600, "kernels may be compiled for the first step"
    page.heart.phase("SavingCheckpoint", 300)
    assert page.limit() == 300
    assert page.limit(1000) == 1000
    page.heart.phase("Evaluating", 600)
    assert page.limit() == 600
    page.heart.piece("Evaluating", 0)
    assert page.limit() == 60
    page.heart.phase(None)
    page.passes(500)
    page.heart.step(1)
    assert page.limit() == 60, "the first step says nothing of the others"
    page.passes(9)
    page.heart.step(2)
    assert page.limit() == 90
    page.heart.phase("Evaluating", 0)
    page.passes(50)
    page.heart.phase(None)
    page.passes(1)
    page.heart.step(3)
    assert page.limit() == 90, "an evaluation is no step"
    assert page.limit(5) == 5


def test_before_a_rank_has_begun_ours_have_five_minutes_and_others_for_ever(tmp_path: Path) -> None:
    make_page(tmp_path / "page")
    beat = read_beat(tmp_path / "page")
    assert limit_of(beat, None, gives_signs=True) == 300
    assert limit_of(beat, 5, gives_signs=False) is None
    page = Page(tmp_path)
    page.heart.phase("Measuring", 0)
    assert limit_of(read_beat(page.path), 5, gives_signs=False) is None, "a run of a variant may take long"
    assert read_beat(tmp_path / "none") is None
    (tmp_path / "page").write_bytes(b"short")
    assert read_beat(tmp_path / "page") is None


def test_a_program_of_the_users_that_reports_steps_has_the_limit_that_was_asked_for_within_them(tmp_path: Path) -> None:
    page = Page(tmp_path)

    def limit(asked: float | None) -> float | None:
        return limit_of(read_beat(page.path), asked, gives_signs=False)

    assert limit(5) is None, "it may have no steps at all"
    page.heart.step(1)
    assert (limit(5), limit(None)) == (5, None)
    page.heart.phase("SavingModel", 300)
    assert limit(5) is None, "its phases are its own"
    page.heart.phase(None)
    assert limit(5) == 5


def test_what_one_rank_had_to_do_before_a_step_does_not_make_the_others_seem_behind(tmp_path: Path) -> None:
    for name, pieces in (("first", 100), ("second", 0)):
        (tmp_path / name).mkdir()
        page = Page(tmp_path / name)
        for _ in range(pieces):
            page.heart.piece("Tokenizing", 0)
        page.heart.step(1)
        page.heart.beat()
        beat = read_beat(page.path)
        assert beat is not None
        assert (beat.step, beat.beats_of_step) == (1, 1)


def test_a_rank_that_had_to_wait_for_its_own_checkpoint_does_not_seem_further_in_its_step(tmp_path: Path) -> None:
    for name, waits in (("first", True), ("second", False)):
        (tmp_path / name).mkdir()
        page = Page(tmp_path / name)
        page.heart.step(1)
        if waits:
            page.heart.phase("SavingCheckpoint", 300)
            page.heart.piece("SavingCheckpoint", 300)
            page.heart.phase(None)
        page.heart.phase("Evaluating", 300)
        page.heart.piece("Evaluating", 300)
        page.heart.phase(None)
        beat = read_beat(page.path)
        assert beat is not None
        assert (beat.step, beat.beats_of_step) == (1, 3)


def test_without_a_launcher_or_a_page_a_rank_works_on(tmp_path: Path) -> None:
    for environment in ({}, {names.ENV_HEARTBEAT_FILE: str(tmp_path / "none")}):
        heart = Heartbeat()
        heart.attach(environment)
        heart.step(1)
        heart.phase("Evaluating")
        heart.account((1, 2, 3, 4, 5))


def looks(watch: Watch, clock: list[float], seconds: float, page: Path, **more: Any) -> Sight:
    """A look some time after the last."""
    clock[0] += seconds
    return watch.look([(0, more.get("pid", os.getpid()), page)])[0]


def test_silence_is_what_lies_between_looks_and_a_late_look_knows_little(tmp_path: Path) -> None:
    page, clock = Page(tmp_path), [0.0]
    watch = Watch(None, gives_signs=True, now=lambda: clock[0])
    looks(watch, clock, 0, page.path)
    assert looks(watch, clock, 1, page.path).silent_milliseconds == 1000
    assert looks(watch, clock, 1, page.path).silent_milliseconds == 2000
    assert looks(watch, clock, 3600, page.path).silent_milliseconds == 4000, "the launcher itself was held up"
    page.heart.beat()
    assert looks(watch, clock, 1, page.path).silent_milliseconds == 0


def test_a_stopped_process_is_seen_to_be(tmp_path: Path) -> None:
    page, clock = Page(tmp_path), [0.0]
    process = subprocess.Popen(["sleep", "600"])
    try:
        watch = Watch(None, gives_signs=False, now=lambda: clock[0])
        assert looks(watch, clock, 1, page.path, pid=process.pid).stopped_milliseconds == 0
        process.send_signal(19)
        wait_for(lambda: is_stopped(process.pid))
        assert looks(watch, clock, 1, page.path, pid=process.pid).stopped_milliseconds == 1000
        process.send_signal(18)
        wait_for(lambda: not is_stopped(process.pid))
        assert looks(watch, clock, 1, page.path, pid=process.pid).stopped_milliseconds == 0
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)
