"""What logs tell: a gang that speaks is never stalled, whatever fails and whatever the clocks of nodes say; a silent
gang is found in time; and the last words of pods are heard."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from builders.operator import Story, a_job, at, child, done, failed, pod
from costopt.plan.silence import look_every
from costopt.schema.replica import Progress
from costopt_operator.decide.objects import Pod
from costopt_operator.decide.observe import JobSnapshot
from costopt_operator.decide.recording import last_speakers, leaving_speakers
from costopt_operator.kube.api import ApiError
from costopt_operator.watch import pod_log_reader as listening
from costopt_operator.watch.pod_log_reader import LOG_BYTES, Logs


class Kubelets:
    """Logs by pod name; each line is written by the clock of its node, which is off by `clock_offset`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.clock_offset = 0.0
        self.lines: dict[str, list[tuple[float, str]]] = {}
        self.fails: Exception | None = None
        self.hangs = False
        self.asked: list[str] = []

    def say(self, name: str, text: str = "working") -> None:
        self.lines.setdefault(name, []).append((self.now, text))

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        name = path.split("/")[-2]
        self.asked.append(name)
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        lines = self.lines.get(name, [])[-int(query["tailLines"]) :]
        said = "".join(f"{at(moment + self.clock_offset)} {text}\n" for moment, text in lines)
        return said[: int(query["limitBytes"])]


class Scene:
    """A running gang of a job, looked at as the controller looks: once a second here, whatever there is to see."""

    def __init__(self, size: int = 2, timeout: int = 25) -> None:
        self.kubelets = Kubelets()
        self.story = Story(a_job(restarts={"stallTimeoutSeconds": timeout}))
        self.story.look(0)
        self.size = size
        self.timeout = timedelta(seconds=timeout)
        self.listen_anew()

    def listen_anew(self) -> None:
        """Another operator leads from now on."""
        api: Any = self.kubelets
        self.logs = Logs(api, lambda _key: None, clock=lambda: self.kubelets.now)

    @property
    def pods(self) -> list[Pod]:
        return [pod(index) for index in range(self.size)]

    async def passes(self, seconds: int, *speakers: str, every: int = 1) -> None:
        """So many seconds pass, in which these pods print a line every so many seconds, until the gang is stopped."""
        for second in range(seconds):
            self.kubelets.now += 1
            for name in speakers:
                if second % every == 0:
                    self.kubelets.say(name)
            self.logs.of(self.pods, self.timeout)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            sights = self.logs.of(self.pods, self.timeout)
            self.story.look(self.kubelets.now, child(completions=self.size), *self.pods, logs=sights)
            if self.story.state() == "Stopping":
                return

    @property
    def stalled(self) -> bool:
        failure = self.story.status.stages[0].failure
        return failure is not None and failure.reason == "Stalled"


FIRST, SECOND = "train-a0-0", "train-a0-1"


@pytest.mark.parametrize("offset", [0, 5, -5, 3600, -3600], ids=lambda offset: f"node clock {offset} s off")
def test_a_gang_that_prints_every_second_is_never_stalled(offset: float) -> None:
    play = Scene()
    play.kubelets.clock_offset = offset
    asyncio.run(play.passes(300, FIRST))
    assert not play.stalled


@pytest.mark.parametrize("offset", [0, 3600, -3600])
@pytest.mark.parametrize("timeout", [10, 25, 60, 600])
def test_a_silent_gang_is_found_soon_after_the_timeout(timeout: int, offset: float) -> None:
    play = Scene(timeout=timeout)
    play.kubelets.clock_offset = offset
    every = look_every(play.timeout).total_seconds()
    asyncio.run(play.passes(3 * timeout + 100))
    assert play.stalled
    # It is heard of first after one interval, and its others after the next.
    assert timeout <= play.kubelets.now <= timeout + 4 * every + 3


def test_logs_that_cannot_be_read_make_no_gang_silent() -> None:
    async def go() -> None:
        await play.passes(30, FIRST)
        play.kubelets.fails = ApiError(500, "InternalError", "the kubelet does not answer")
        await play.passes(3600)
        assert not play.stalled
        play.kubelets.fails = None
        before = play.kubelets.now
        await play.passes(20)  # nothing is known of the hour before
        assert not play.stalled
        await play.passes(100)
        assert play.stalled
        assert play.kubelets.now >= before + 20

    play = Scene()
    asyncio.run(go())


def test_a_look_that_failed_parts_the_silence_before_it_from_that_after_it() -> None:
    class EveryOtherFails(Kubelets):
        async def text(self, path: str, query: Mapping[str, str]) -> str:
            self.fails = ApiError(500, "", "now and then") if self.fails is None else None
            return await super().text(path, query)

    play = Scene(size=1)
    play.kubelets = EveryOtherFails()
    play.listen_anew()
    asyncio.run(play.passes(300))
    assert not play.stalled, "what lies between was not looked at"


def test_what_a_kubelet_says_instead_of_a_log_is_no_silence() -> None:
    class HasNoLog(Kubelets):
        async def text(self, path: str, query: Mapping[str, str]) -> str:
            return "unable to retrieve container logs for containerd://1f2e"

    async def go() -> None:
        play.kubelets = HasNoLog()
        play.listen_anew()
        await play.passes(200)
        assert not play.stalled

    play = Scene()
    asyncio.run(go())


def test_a_read_that_never_ends_is_no_silence_and_is_not_repeated() -> None:
    async def go() -> None:
        await play.passes(30, FIRST)
        play.kubelets.hangs = True
        asked = len(play.kubelets.asked)
        await play.passes(600)
        assert not play.stalled
        assert len(play.kubelets.asked) == asked + 1

    play = Scene()
    asyncio.run(go())


def test_an_operator_that_was_away_or_has_just_begun_knows_of_no_silence() -> None:
    async def go() -> None:
        await play.passes(15)
        play.kubelets.now += 3600
        await play.passes(1)
        assert not play.stalled
        play.listen_anew()
        await play.passes(25)
        assert not play.stalled
        await play.passes(20)
        assert play.stalled

    play = Scene()
    asyncio.run(go())


@pytest.mark.parametrize("speaker", [SECOND, "train-a0-11"], ids=["the second", "the last"])
def test_one_replica_that_speaks_keeps_its_gang_alive(speaker: str) -> None:
    play = Scene(size=12)
    asyncio.run(play.passes(200, speaker, every=10))
    assert not play.stalled


def test_a_gang_whose_first_replica_has_ended_well_is_heard_through_the_next() -> None:
    class WithoutTheFirst(Scene):
        @property
        def pods(self) -> list[Pod]:
            return [done(0), pod(1)]

    play = WithoutTheFirst()
    asyncio.run(play.passes(200, SECOND))
    assert not play.stalled


def test_one_whose_log_cannot_be_read_may_be_the_one_that_speaks() -> None:
    class OneIsCutOff(Kubelets):
        async def text(self, path: str, query: Mapping[str, str]) -> str:
            if f"{SECOND}/" in path:
                raise ApiError(502, "", "no route to the node")
            return await super().text(path, query)

    play = Scene()
    play.kubelets = OneIsCutOff()
    play.listen_anew()
    asyncio.run(play.passes(300))
    assert not play.stalled


def test_logs_are_read_rarely_while_the_first_replica_speaks() -> None:
    play = Scene(size=12, timeout=600)
    asyncio.run(play.passes(600, FIRST))
    assert set(play.kubelets.asked) == {FIRST}
    assert len(play.kubelets.asked) <= 20


def test_a_line_behind_others_that_fill_what_is_read_is_seen() -> None:
    """Not every program's lines are short, and what is cut off is the end."""
    play = Scene()

    async def go() -> None:
        for _ in range(3):
            play.kubelets.say(FIRST, "x" * (LOG_BYTES // 2))
        await play.passes(50, FIRST, every=5)  # fewer lines than are read
        assert not play.stalled

    asyncio.run(go())


PRINTED = '{"step": 39, "totalSteps": 40, "loss": "1.25"}'
AT_STEP_39 = Progress(step=39, total_steps=40, loss="1.25")


async def ending(play: Scene, *pods: Pod, seconds: float = 70) -> Any:
    """A look at the ended gang while its last words are awaited, and the sights after that."""
    world_of = {"logs": play.logs.of(pods, play.timeout)}
    speakers = last_speakers(_world(play, pods))
    unheard = play.logs.last_words(speakers)
    todo = play.story.look(seconds, child(conditions=("Complete",)), *pods, unheard=unheard, **world_of)
    if unheard:
        assert (todo.status, todo.releases) == (None, ())
        assert todo.requeue_after is not None
    for _ in range(400):
        await asyncio.sleep(0.005)
        if not play.logs.last_words(speakers):
            break
    unheard = play.logs.last_words(speakers)
    assert not unheard
    return play.story.look(seconds + 1, child(conditions=("Complete",)), *pods, logs=play.logs.of(pods, play.timeout))


def _world(play: Scene, pods: tuple[Pod, ...]) -> JobSnapshot:
    return JobSnapshot(job=play.story.job, status=play.story.status, pods=pods)


def test_the_last_lines_of_a_log_are_in_the_final_status() -> None:
    async def go() -> None:
        play.kubelets.say(FIRST, PRINTED)
        await ending(play, done(0), done(1))
        assert play.story.reason() == "Completed"
        assert play.story.status.progress == AT_STEP_39
        assert play.kubelets.asked == [FIRST]

    play = Scene()
    asyncio.run(go())


def leaving() -> Pod:
    """The first pod, told to end at second 60."""
    return pod(0, deleted=90, grace=30)


def test_a_pod_that_is_told_to_end_is_listened_to_until_it_has_and_its_log_is_gone() -> None:
    class UntilItEnds(Kubelets):
        def __init__(self) -> None:
            super().__init__()
            self.ended = asyncio.Event()

        async def chunks(self, path: str, query: Mapping[str, str], silence_seconds: float) -> AsyncIterator[bytes]:
            self.asked.append(f"{path.split('/')[-2]} to its end")
            yield f"{at(61)} working\n{at(62)} {PRINTED[:9]}".encode()
            await self.ended.wait()
            yield f"{PRINTED[9:]}\n".encode()

    async def go() -> None:
        play.kubelets = kubelets = UntilItEnds()
        play.listen_anew()
        for _ in range(3):
            play.logs.follow([leaving()])
            await asyncio.sleep(0.01)
        kubelets.fails = ApiError(404, "NotFound", "no such container")
        asyncio.get_running_loop().call_later(0.05, kubelets.ended.set)
        await ending(play, done(0), done(1))
        assert play.story.status.progress == AT_STEP_39
        assert kubelets.asked == [f"{FIRST} to its end", FIRST]

    play = Scene()
    asyncio.run(go())


def test_only_a_program_of_ones_own_is_followed_and_only_when_it_is_told_to_end() -> None:
    train = {"numNodes": 2, "resourcesPerNode": {"requests": {"cpu": 1, "memory": "1Gi"}}, "command": ["a"]}
    own = a_job(train=train)
    for job, pods, stopped, followed in (
        (own, (leaving(), pod(1, deleted=90)), [], [FIRST]),
        (own, (pod(0), pod(1)), [], []),
        (own, (pod(0), pod(1)), [child()], [FIRST]),
        (own, (done(0), pod(1, deleted=90)), [], []),
        (a_job(), (leaving(),), [], []),
        (a_job(), (pod(0),), [child()], []),
    ):
        world = JobSnapshot(job=job, status=Story(job).status, pods=pods)
        assert [each.name for each in leaving_speakers(world, stopped)] == followed


def test_a_stop_waits_until_the_log_comes_but_only_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowToAnswer(Kubelets):
        def __init__(self, answers: bool) -> None:
            super().__init__()
            self.answers = answers
            self.answered = False

        async def chunks(self, path: str, query: Mapping[str, str], silence_seconds: float) -> AsyncIterator[bytes]:
            await asyncio.sleep(0.05 if self.answers else 60)
            self.answered = True
            yield b""
            await asyncio.sleep(60)

    async def go(kubelets: SlowToAnswer) -> None:
        play = Scene()
        play.kubelets = kubelets
        play.listen_anew()
        await play.logs.followed([pod(0)])

    slow, silent = SlowToAnswer(answers=True), SlowToAnswer(answers=False)
    asyncio.run(go(slow))
    assert slow.answered
    monkeypatch.setattr(listening, "FOLLOWED_WITHIN_SECONDS", 0.1)
    asyncio.run(go(silent))
    assert not silent.answered


def test_a_node_that_does_not_answer_holds_the_record_up_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        play.kubelets.hangs = True
        todo = await ending(play, done(0), done(1))
        assert play.story.reason() == "Completed"
        assert len(todo.releases) == 2

    monkeypatch.setattr(listening, "LAST_WORDS_SECONDS", 0.2)
    play = Scene()
    asyncio.run(go())


def test_last_words_are_asked_for_again_while_their_node_is_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        play.kubelets.say(FIRST, PRINTED)
        play.kubelets.fails = ApiError(503, "", "the node is in trouble")
        asyncio.get_running_loop().call_later(0.05, setattr, play.kubelets, "fails", None)
        await ending(play, done(0), done(1))
        assert play.story.status.progress == AT_STEP_39

    monkeypatch.setattr(listening, "LAST_WORDS_PAUSE_SECONDS", 0.02)
    play = Scene()
    asyncio.run(go())


def test_a_log_that_is_gone_is_asked_for_once() -> None:
    async def go() -> None:
        play.kubelets.fails = ApiError(404, "NotFound", "no such container")
        await ending(play, done(0), done(1))
        assert play.kubelets.asked == [FIRST]

    play = Scene()
    asyncio.run(go())


def test_of_a_thousand_pods_the_first_and_the_first_to_fail_are_read() -> None:
    play = Scene()
    pods = tuple(failed(index, finished=61 + index % 7) for index in range(1000))
    fell_first = failed(500, finished=30)
    read = last_speakers(_world(play, (*pods[:500], fell_first, *pods[501:])))
    assert [pod.index for pod in read] == [0, 500]


def test_a_pod_that_told_its_progress_at_its_end_is_not_asked_again() -> None:
    play = Scene()
    told = done(0, message={"exitCode": 0, "progress": {"step": 40, "totalSteps": 40}})
    assert last_speakers(_world(play, (told, done(1)))) == []


def test_a_gang_one_of_whose_pods_failed_is_stopped_before_its_last_words_have_come() -> None:
    play = Scene()
    fallen = failed(0)
    todo = play.story.look(61, child(), fallen, pod(1), unheard=frozenset({fallen.uid}))
    assert [item.index for item, _ in todo.delete_pods] == [1]
    assert todo.releases == ()


def test_a_pod_that_ended_well_before_its_gang_is_recorded_after_its_last_words() -> None:
    play = Scene()
    for second in (62, 80, 99):
        todo = play.story.look(second, child(), done(0), pod(1), unheard=frozenset({done(0).uid}))
        assert todo.releases == ()
    for second in (100, 115):
        todo = play.story.look(second, child(), done(0), pod(1))
    assert [item.index for item in todo.releases] == [0]
