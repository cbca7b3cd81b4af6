"""A list-watch misses nothing, whatever happens to its connection. The API server is played by a script of answers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from builders.operator import pod_json
from costopt_operator.decide.objects import INDEX_LABEL, Pod, parse_pod
from costopt_operator.kube.api import ApiError, Json
from costopt_operator.watch import list_watch
from costopt_operator.watch.list_watch import ListWatch


def seen(index: int, version: int) -> Json:
    """Pod `index` as of `version`, each of which differs from the others."""
    data = pod_json(index, node=f"node-{version}")
    data["metadata"]["resourceVersion"] = str(version)
    return data


def listed(version: int, *items: Json) -> list[Json]:
    """A list of one page."""
    return [{"metadata": {"resourceVersion": str(version)}, "items": list(items)}]


class Script:
    """Plays the API server: each list and each watch takes the next answer; the last watch stays silent for ever."""

    def __init__(self, lists: list[Any], watches: list[list[Any]]) -> None:
        self.lists = lists
        self.watches = watches
        self.expected = len(watches) + 1
        self.watched_from: list[str] = []

    async def pages(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Json]:
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for page in answer:
            yield page

    async def stream(self, path: str, query: Mapping[str, str], silence_seconds: float) -> AsyncIterator[Json]:
        self.watched_from.append(query["resourceVersion"])
        if not self.watches:
            await asyncio.Event().wait()
        for event in self.watches.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


def play(script: Script) -> tuple[list[tuple[int, bool]], dict[str, Pod]]:
    """Run a list-watch through the script: the changes it reported (index, gone), and what it knows in the end."""
    changes: list[tuple[int, bool]] = []

    async def go() -> dict[str, Pod]:
        watch = ListWatch[Pod](script, "/pods", {}, parse_pod, lambda pod, gone: changes.append((pod.index, gone)))  # type: ignore[arg-type]
        task = asyncio.ensure_future(watch.run())
        while len(script.watched_from) < script.expected:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        task.cancel()
        return watch.objects

    return changes, asyncio.run(asyncio.wait_for(go(), 240))


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_watch, "BACKOFF_SECONDS", (0.001, 0.01))


def event(kind: str, item: Json) -> Json:
    return {"type": kind, "object": item}


EXPIRED = event("ERROR", {"code": 410, "reason": "Expired", "message": "too old"})


def test_what_is_listed_and_what_changes_is_reported_once() -> None:
    script = Script([listed(5, seen(0, 1), seen(1, 2))], [[event("MODIFIED", seen(1, 6)), event("ADDED", seen(2, 7))]])
    changes, known = play(script)
    assert changes == [(0, False), (1, False), (1, False), (2, False)]
    assert len(known) == 3


def test_a_deletion_that_happened_while_the_version_was_too_old_is_reported() -> None:
    changes, known = play(Script([listed(5, seen(0, 1), seen(1, 2)), listed(90, seen(0, 1))], [[EXPIRED]]))
    assert changes == [(0, False), (1, False), (1, True)]
    assert [pod.index for pod in known.values()] == [0]


@pytest.mark.parametrize("answer", [ApiError(410, "Expired", "too old")], ids=["refused at once"])
def test_a_watch_that_is_refused_as_too_old_lists_again(answer: Exception) -> None:
    changes, _ = play(Script([listed(5, seen(0, 1)), listed(9)], [[answer]]))
    assert changes == [(0, False), (0, True)]


@pytest.mark.parametrize("lost", [ConnectionResetError("reset"), TimeoutError(), ApiError(500, "", "internal")])
def test_after_a_lost_connection_the_watch_goes_on_from_the_last_version_seen(lost: Exception) -> None:
    script = Script([listed(5, seen(0, 1))], [[event("MODIFIED", seen(0, 8)), lost], [event("DELETED", seen(0, 9))]])
    changes, known = play(script)
    assert script.watched_from[:2] == ["5", "8"]
    assert changes == [(0, False), (0, False), (0, True)]
    assert known == {}


def test_a_bookmark_moves_the_version_on() -> None:
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "70"}})
    script = Script([listed(5)], [[bookmark, ConnectionResetError()]])
    play(script)
    assert script.watched_from == ["5", "70"]


def test_a_list_that_expires_half_way_is_made_again() -> None:
    changes, _ = play(Script([ApiError(410, "Expired", "continue token"), listed(5, seen(0, 1))], []))
    assert changes == [(0, False)]


def test_news_that_come_late_do_not_bring_a_deleted_object_back() -> None:
    reported: list[bool] = []
    watch = ListWatch[Pod](None, "/pods", {}, parse_pod, lambda _pod, gone: reported.append(gone))  # type: ignore[arg-type]
    pod = parse_pod(seen(0, 5))
    watch.learn(pod)
    watch.forget(pod)
    watch.learn(parse_pod(seen(0, 6)))
    assert reported == [False, True]
    assert watch.objects == {}


def test_a_new_version_that_changes_nothing_of_what_is_kept_is_not_reported() -> None:
    reported: list[Pod] = []
    watch = ListWatch[Pod](None, "/pods", {}, parse_pod, lambda pod, _gone: reported.append(pod))  # type: ignore[arg-type]
    first = seen(0, 5)
    second = {**first, "metadata": {**first["metadata"], "resourceVersion": "6", "annotations": {"of": "another"}}}
    watch.learn(parse_pod(first))
    watch.learn(parse_pod(second))
    assert [pod.resource_version for pod in reported] == [5]
    assert [pod.resource_version for pod in watch.objects.values()] == [6]


def test_older_news_are_passed_over() -> None:
    reported: list[Pod] = []
    watch = ListWatch[Pod](None, "/pods", {}, parse_pod, lambda pod, _gone: reported.append(pod))  # type: ignore[arg-type]
    watch.learn(parse_pod(seen(0, 9)))
    watch.learn(parse_pod(seen(0, 8)))
    assert [pod.resource_version for pod in reported] == [9]


def test_an_object_that_only_bears_our_label_stops_nothing_and_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strange = seen(7, 6)
    strange["metadata"]["labels"][INDEX_LABEL] = "x"
    script = Script([listed(5, strange, seen(0, 1))], [[event("ADDED", strange), event("ADDED", seen(1, 8))]])
    changes, _ = play(script)
    assert changes == [(0, False), (1, False)]
    assert sum("is passed over" in record.getMessage() for record in caplog.records) == 1


def test_an_object_that_is_not_understood_any_more_is_gone_when_it_is_deleted() -> None:
    relabelled = seen(0, 7)
    relabelled["metadata"]["labels"][INDEX_LABEL] = "none"
    changes, known = play(
        Script([listed(5, seen(0, 1))], [[event("MODIFIED", relabelled), event("DELETED", relabelled)]])
    )
    assert changes == [(0, False), (0, True)]
    assert known == {}
