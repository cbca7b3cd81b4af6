"""Of two processes one acts, and a leader that cannot be sure of its lease writes nothing more.

The times are a quarter of the real ones, in the same proportion. Each candidate has its own door to the server of the
lease, so that one can be cut off while the other is not.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from costopt_operator.kube.api import Api, ApiError, NotLeading
from costopt_operator.serve import leader_election as leader
from costopt_operator.serve.leader_election import Leadership, lead

pytestmark = pytest.mark.slow

Json = dict[str, Any]
Mode = str
"""What happens at a door: "open", "hangs", "refuses" (500), or "slow" (answers after the time for one try)."""


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for a busy machine: a renewal that comes two seconds late is still in time.
    for name, value in {"LEASE_SECONDS": 7, "RENEW_SECONDS": 5, "RETRY_SECONDS": 1, "TRY_SECONDS": 1}.items():
        monkeypatch.setattr(leader, name, value)


class LeaseServer:
    """One Lease, with the API server's optimistic locking."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.version = 0
        self.doors: dict[str, Mode] = {}
        self.writes = 0
        self.in_vain = 0
        """Requests that met a door which was not open."""

    @contextlib.asynccontextmanager
    async def door(self, who: str) -> AsyncIterator[Configuration]:
        """A way in for one candidate; how it is can be changed in `doors`."""
        self.doors[who] = "open"
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", functools.partial(self._at_the_door, who))
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield configuration
        finally:
            await runner.cleanup()

    async def _at_the_door(self, who: str, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.in_vain += self.doors[who] != "open"
        if self.doors[who] == "hangs":
            await asyncio.Event().wait()
        if self.doors[who] == "refuses":
            return refused(500, "InternalError")
        if self.doors[who] == "slow":
            await asyncio.sleep(leader.TRY_SECONDS + 0.1)
        if not request.path.startswith("/apis/coordination.k8s.io/v1/namespaces/ops/leases"):
            self.writes += request.method != "GET"
            return web.json_response({})
        return self._answer(request.method, body)

    def _answer(self, method: str, body: Json | None) -> web.Response:
        if method == "GET":
            return web.json_response(self.lease) if self.lease else refused(404, "NotFound")
        assert body is not None
        known = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if body["metadata"].get("resourceVersion") != known:
            return refused(409, "AlreadyExists" if method == "POST" else "Conflict")
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return web.json_response(self.lease)

    @property
    def holder(self) -> str | None:
        return self.lease["spec"].get("holderIdentity") if self.lease else None


def refused(code: int, reason: str) -> web.Response:
    status = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}
    return web.json_response(status, status=code)


class Candidate:
    """A process: it notes when it may write, and tries to, twenty times a second."""

    def __init__(self, server: LeaseServer, name: str) -> None:
        self._server = server
        self.name = name
        self.leadership = Leadership()
        self.began: float | None = None
        self.last_held: float | None = None
        self.refused = 0

    async def run(self, seconds: float | None = None) -> bool:
        """Stand for election; once elected act for so long, or until cancelled. What `lead` returned."""
        async with self._server.door(self.name) as configuration:
            self._api = Api(configuration, self.leadership.holds)
            try:
                return await lead(
                    configuration,
                    self.leadership,
                    name="costopt-operator",
                    namespace="ops",
                    identity=self.name,
                    act=lambda: self._act(seconds),
                )
            finally:
                await self._api.close()

    async def _act(self, seconds: float | None) -> None:
        self.began = time.monotonic()
        while seconds is None or time.monotonic() < self.began + seconds:
            if self.leadership.holds():
                self.last_held = time.monotonic()
            try:
                async with asyncio.timeout(0.02):
                    await self._api.request("POST", "/api/v1/namespaces/ops/events", body={})
            except NotLeading:
                self.refused += 1
            except (TimeoutError, ApiError):
                pass
            await asyncio.sleep(0.03)


@contextlib.asynccontextmanager
async def running(*candidates: Candidate) -> AsyncIterator[list[asyncio.Task[bool]]]:
    tasks = [asyncio.create_task(candidate.run()) for candidate in candidates]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool], seconds: float = 120) -> float:
    """How long it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)
    return time.monotonic() - began


def play(act: Callable[[LeaseServer], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(act(LeaseServer()), 240))


def test_of_two_that_start_at_once_one_acts_and_the_other_stands_by() -> None:
    async def act(server: LeaseServer) -> None:
        one, other = Candidate(server, "one"), Candidate(server, "other")
        async with running(one, other):
            await until(lambda: server.holder is not None)
            await asyncio.sleep(leader.LEASE_SECONDS + 1)  # it is renewed in time
            acting = [candidate for candidate in (one, other) if candidate.began]
            assert [candidate.name for candidate in acting] == [server.holder]
            assert acting[0].refused == 0

    play(act)


def test_a_leader_that_ends_gives_the_lease_back_and_the_next_need_not_wait_it_out() -> None:
    async def act(server: LeaseServer) -> None:
        one, other = Candidate(server, "one"), Candidate(server, "other")
        first = asyncio.create_task(one.run())
        await until(lambda: one.began is not None)
        async with running(other):
            await asyncio.sleep(1.2)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert not server.holder
            assert not one.leadership.holds()
            assert await until(lambda: other.began is not None) < leader.LEASE_SECONDS - 2

    play(act)


def test_a_leader_that_is_cut_off_writes_nothing_before_the_next_one_acts() -> None:
    async def act(server: LeaseServer) -> None:
        one, other = Candidate(server, "one"), Candidate(server, "other")
        async with running(one) as [first]:
            await until(lambda: one.began is not None)
            async with running(other):
                await asyncio.sleep(0.5)
                server.doors["one"] = "hangs"
                assert await asyncio.wait_for(first, 120) is False
                await until(lambda: other.began is not None)
                assert one.last_held is not None
                assert other.began is not None
                assert one.last_held < other.began

    play(act)


def test_a_leader_that_has_not_noticed_yet_is_refused_its_writes() -> None:
    async def act(server: LeaseServer) -> None:
        clock = [0.0]
        leadership = Leadership(lambda: clock[0])
        async with server.door("one") as configuration:
            api = Api(configuration, leadership.holds)
            with pytest.raises(NotLeading):
                await api.request("POST", "/api/v1/namespaces/ops/events", body={})
            leadership.renewed()
            await api.request("POST", "/api/v1/namespaces/ops/events", body={})
            clock[0] = leader.RENEW_SECONDS + 0.01
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                with pytest.raises(NotLeading):
                    await api.request(method, "/api/v1/namespaces/ops/events", body={})
            await api.request("GET", "/api/v1/namespaces/ops/events")  # looking is free
            await api.close()
        assert server.writes == 1

    play(act)


@pytest.mark.parametrize("mode", ["refuses", "hangs", "slow"])
def test_a_try_that_fails_is_not_the_end(mode: Mode) -> None:
    async def act(server: LeaseServer) -> None:
        one = Candidate(server, "one")
        async with running(one) as [first]:
            await until(lambda: one.began is not None)
            for _ in range(3):
                version, in_vain = server.version, server.in_vain
                server.doors["one"] = mode
                await until(lambda before=in_vain: server.in_vain > before)
                server.doors["one"] = "open"
                await until(lambda before=version: server.version > before)
            assert not first.done()
            assert one.refused == 0

    play(act)


@pytest.mark.parametrize("mode", ["refuses", "hangs"])
def test_a_candidate_waits_for_a_server_that_does_not_answer(mode: Mode) -> None:
    async def act(server: LeaseServer) -> None:
        one = Candidate(server, "one")
        async with running(one) as [first]:
            await until(lambda: "one" in server.doors)
            server.doors["one"] = mode
            await until(lambda: server.in_vain >= 2)  # one try has failed, and another has begun
            assert (one.began, first.done()) == (None, False)
            server.doors["one"] = "open"
            await until(lambda: one.began is not None)

    play(act)


def test_work_that_ends_by_itself_is_told_apart_from_a_lease_that_is_lost() -> None:
    async def act(server: LeaseServer) -> None:
        assert await Candidate(server, "one").run(seconds=0.2) is True
        assert not server.holder

    play(act)


def test_an_error_of_the_work_is_not_swallowed() -> None:
    class Failing(Candidate):
        async def _act(self, seconds: float | None) -> None:
            raise ValueError("a mistake")

    async def act(server: LeaseServer) -> None:
        with pytest.raises(ValueError, match="a mistake"):
            await Failing(server, "one").run()
        assert not server.holder

    play(act)


class TimeOfDay:
    """Python's `time` as the client sees it, with a time of day that is set anew."""

    def __init__(self) -> None:
        self.shift = 0.0

    def time(self) -> float:
        return time.time() + self.shift


@pytest.fixture
def time_of_day(monkeypatch: pytest.MonkeyPatch) -> TimeOfDay:
    set_anew = TimeOfDay()
    monkeypatch.setattr("kubernetes.aio.leaderelection.leaderelection.time", set_anew)
    return set_anew


def test_a_time_of_day_that_jumps_ahead_takes_no_lease_from_who_holds_it(
    time_of_day: TimeOfDay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(server: LeaseServer) -> None:
        one, other = Candidate(server, "one"), Candidate(server, "other")
        # Times in which a busy machine always renews in time; that of day jumps by far more than any of them.
        for name, value in {"LEASE_SECONDS": 24, "RENEW_SECONDS": 16, "TRY_SECONDS": 5, "RETRY_SECONDS": 1.3}.items():
            monkeypatch.setattr(leader, name, value)
        async with running(one) as [first]:
            await until(lambda: one.began is not None)
            monkeypatch.setattr(leader, "RETRY_SECONDS", 1)  # the other looks more often: some looks find nothing new
            async with running(other) as [second]:
                for _ in range(60):
                    time_of_day.shift += 3600
                    await asyncio.sleep(0.1)
                assert (server.holder, other.began, first.done(), second.done()) == ("one", None, False, False)

    play(act)


def test_a_time_of_day_that_jumps_back_keeps_no_lease_from_the_next(time_of_day: TimeOfDay) -> None:
    async def act(server: LeaseServer) -> None:
        one, other = Candidate(server, "one"), Candidate(server, "other")
        async with running(one) as [first]:
            await until(lambda: one.began is not None)
            async with running(other):
                await asyncio.sleep(1.2)
                server.doors["one"] = "hangs"
                await asyncio.sleep(1.2)  # the other has seen the last renewal
                time_of_day.shift = -3600
                await until(lambda: other.began is not None)
                assert one.last_held is not None
                assert other.began is not None
                assert one.last_held < other.began
                await asyncio.wait_for(first, 120)

    play(act)
