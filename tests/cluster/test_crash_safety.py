"""The operator is killed between all of its writes, and at random times; each time the end is the same.

The end: the same children, each created once, every pod's usage recorded once with its own times, the same counts of
attempts and failures, and no finalizer left.
"""

import asyncio
import random
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from builders.lives import (
    STEP_SECONDS,
    Json,
    Life,
    Sight,
    differing,
    end_of,
    life_that_loses_its_first_attempt,
    lives,
    namespaces,
)
from builders.proxy import Crash, Moment, Operator, Upstream
from cluster.clients import Cluster
from cluster.control_plane import ControlPlane

AT_A_TIME = 4
QUIET_SECONDS = 1.0
"""An operator that has written nothing for so long after the end of a job has nothing more to write."""
MOST_TOLD = 20
"""Differences that a failure tells: one mistake shows at many writes."""
LIVES = lives()


class Stage:
    """Where lives are played: one control plane, an operator process for each life."""

    def __init__(self, sight: Sight, upstream: Upstream, folder: Path, life: Life) -> None:
        self.sight = sight
        self._upstream = upstream
        self._folder = folder
        self._life = life

    def operator(self, namespace: str, crash: Crash | None = None) -> Operator:
        return Operator(self._upstream, namespace, self._folder, crash)

    async def live(self, namespace: str, *crashes: Crash | float) -> tuple[Json, list[list[str]]]:
        """One life: the operator dies at each crash (or so many seconds after its start) and is started again.

        Returns what is left at the end, and the writes of each operator process.
        """
        written: list[list[str]] = []
        await self.sight.make(namespace, self._life.job)
        conduct = asyncio.ensure_future(self._life.conduct(self.sight, namespace))
        try:
            for crash in (*crashes, None):
                async with self.operator(namespace, crash if isinstance(crash, Crash) else None) as operator:
                    written.append(operator.writes)
                    if isinstance(crash, float):
                        await asyncio.sleep(crash)
                        continue
                    await self._end_or_death(operator, namespace, conduct)
                    if not operator.killed.is_set():
                        if not crashes:  # of one that is killed, events may be lost
                            await told(self.sight, namespace)
                        break
            return await end_of(self.sight, namespace), written
        except AssertionError as failure:
            log = (self._folder / f"{namespace}.log").read_text(errors="replace")[-3000:]
            status = self.sight.status(namespace).to_plain()
            raise AssertionError(f"{failure}\n{status=}\n{written=}\nthe operator said:\n{log}") from failure
        finally:
            conduct.cancel()
            await asyncio.gather(conduct, return_exceptions=True)

    async def _end_or_death(self, operator: Operator, namespace: str, conduct: asyncio.Future[None]) -> None:
        clock = asyncio.get_running_loop().time

        def over() -> bool:
            if operator.killed.is_set():
                return True
            assert not operator.ended_by_itself, "the operator has ended by itself"
            if conduct.done():
                conduct.result()
            quiet = clock() - operator.last_write > QUIET_SECONDS
            return conduct.done() and quiet and self.sight.is_over(namespace)

        await self.sight.wait_for(over, "the end of the job")


def play(
    control_plane: ControlPlane, folder: Path, life: Life, act: Callable[[Stage], Coroutine[Any, Any, None]]
) -> None:
    async def go() -> None:
        async with Upstream(control_plane) as upstream, Sight(upstream) as sight:
            await act(Stage(sight, upstream, folder, life))

    asyncio.run(go())


async def compare(
    stage: Stage, undisturbed: Json, cases: dict[str, tuple[Crash | float, ...]]
) -> dict[str, list[list[str]]]:
    """Live each case, some at a time; assert that all end like the undisturbed one; returns the writes of each."""
    written: dict[str, list[list[str]]] = {}
    differences: list[str] = []
    places = asyncio.Semaphore(AT_A_TIME)
    prefix = f"crash-{uuid.uuid4().hex[:6]}"

    async def one(number: int, case: str, crashes: tuple[Crash | float, ...]) -> None:
        async with places:
            try:
                end, written[case] = await stage.live(f"{prefix}-{number}", *crashes)
            except AssertionError as failure:
                differences.append(f"{case}: {failure}")
                return
        differences.extend(f"{case}: {what}" for what in differing(undisturbed, end))

    async with namespaces(stage.sight, [f"{prefix}-{number}" for number in range(len(cases))]):
        await asyncio.gather(*(one(number, case, crashes) for number, (case, crashes) in enumerate(cases.items())))
    if differences:
        pytest.fail("\n".join(differences[:MOST_TOLD]), pytrace=False)
    return written


async def told(sight: Sight, namespace: str) -> None:
    """Return once the job's end is an event, which on a busy machine may come long after the status."""
    end = sight.status(namespace).condition("Succeeded")
    assert end is not None
    async with asyncio.timeout(STEP_SECONDS):
        while end.reason not in {event["reason"] for event in await sight.events(namespace)}:
            await asyncio.sleep(0.1)


async def undisturbed_life(stage: Stage) -> tuple[Json, list[str]]:
    namespace = f"calm-{uuid.uuid4().hex[:6]}"
    async with namespaces(stage.sight, [namespace]):
        end, written = await stage.live(namespace)
        return end, written[0]


@pytest.fixture
def place(control_plane: ControlPlane, crds: Cluster, tmp_path: Path) -> tuple[ControlPlane, Path]:
    return control_plane, tmp_path


@pytest.mark.parametrize("name", LIVES)
def test_killed_at_any_write_the_operator_comes_to_the_same_end(name: str, place: tuple[ControlPlane, Path]) -> None:
    """Dying before a write leaves what dying after the one before leaves: the same objects, and nothing in memory."""

    async def act(stage: Stage) -> None:
        end, writes = await undisturbed_life(stage)
        moments: list[tuple[Moment, int]] = [("before", 1), *(("after", number + 1) for number in range(len(writes)))]
        cases = {
            f"killed {moment} write {number} ({writes[number - 1]})": (Crash(moment, number),)
            for moment, number in moments
        }
        written = await compare(stage, end, cases)
        # Two statuses may be written as one, or pods end before they are told to; the operator died at all others.
        assert sum(len(processes) == 2 for processes in written.values()) >= len(writes) - 4

    play(*place, LIVES[name], act)


@pytest.mark.parametrize("name", LIVES)
def test_an_operator_that_dies_after_every_single_write_gets_there_all_the_same(
    name: str, place: tuple[ControlPlane, Path]
) -> None:
    async def act(stage: Stage) -> None:
        end, writes = await undisturbed_life(stage)
        await compare(stage, end, {"one write a life": (Crash("after", 1),) * (2 * len(writes))})

    play(*place, LIVES[name], act)


@pytest.mark.parametrize("name", LIVES)
def test_killed_at_any_time_the_operator_comes_to_the_same_end(name: str, place: tuple[ControlPlane, Path]) -> None:
    chance = random.Random(name)

    async def act(stage: Stage) -> None:
        end, _ = await undisturbed_life(stage)
        times = [tuple(chance.uniform(0.3, 2.5) for _ in range(chance.randint(1, 4))) for _ in range(4)]
        await compare(stage, end, {f"killed after {case} s": case for case in times})

    play(*place, LIVES[name], act)


def test_pods_of_a_batch_job_made_by_a_dying_operator_and_deleted_before_the_next_are_recorded(
    place: tuple[ControlPlane, Path],
) -> None:
    """The first dies as it has made the batch Job, which no status names; the next finds pods of a Job that is gone."""
    life = life_that_loses_its_first_attempt()

    async def act(stage: Stage) -> None:
        sight, namespace = stage.sight, f"crash-{uuid.uuid4().hex[:6]}"
        async with namespaces(sight, [namespace]):
            await sight.make(namespace, life.job)
            async with stage.operator(namespace, Crash("after", "POST jobs")) as operator:
                await sight.wait_for(operator.killed.is_set, "killed")
            await sight.wait_for(lambda: sight.running(namespace) == 2, "two pods that nobody looks after")
            assert not sight.status(namespace).batch_jobs
            (batch_job,) = sight.of("jobs", namespace)
            path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{batch_job['metadata']['name']}"
            await sight.request("DELETE", path, {"propagationPolicy": "Background"})
            await sight.wait_for(lambda: sight.is_gone(batch_job), "the batch Job gone")
            async with stage.operator(namespace):
                await sight.wait_for(lambda: sight.is_over(namespace), "the end of the job")
            end = await end_of(sight, namespace)
            assert [pod["phase"] for pod in end["pods"].values()].count("Succeeded") == 2
            stage_now = sight.status(namespace).stage("train")
            assert stage_now is not None
            assert (stage_now.attempt, stage_now.failures, stage_now.disruptions) == (1, 0, 1)

    play(*place, life, act)
