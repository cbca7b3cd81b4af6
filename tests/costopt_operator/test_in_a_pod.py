"""The real program where only a pod is: no user name, no home, nothing to write to, and a token that changes.

The API server plays Kubernetes; before it stands a door with TLS, which lets in whoever says the token of the moment.
"""

import asyncio
import contextlib
import re
import signal
import socket
import ssl
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import kmock
import pytest
from aiohttp import web

from builders.pod import PodFiles, certificate, in_a_pod, why_no_pod
from builders.ports import free_port
from cases.mistakes import plain_job

pytestmark = pytest.mark.skipif(why_no_pod() is not None, reason=why_no_pod() or "")

Json = dict[str, Any]

OFFERED = {
    "costopt.dev/v1alpha1/costoptjobs": ("CostOptJob", True),
    "costopt.dev/v1alpha1/pricebooks": ("PriceBook", False),
    "coordination.k8s.io/v1/leases": ("Lease", True),
    "apiextensions.k8s.io/v1/customresourcedefinitions": ("CustomResourceDefinition", False),
    "v1/namespaces": ("Namespace", False),
    "v1/events": ("Event", True),
    "v1/pods": ("Pod", True),
    "v1/services": ("Service", True),
    "v1/configmaps": ("ConfigMap", True),
    "v1/persistentvolumeclaims": ("PersistentVolumeClaim", True),
    "networking.k8s.io/v1/networkpolicies": ("NetworkPolicy", True),
    "batch/v1/jobs": ("Job", True),
}
VERBS = {"get", "list", "watch", "patch", "create", "update", "delete"}
JOBS = "/apis/costopt.dev/v1alpha1/namespaces/team/costoptjobs"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/costopt-system/leases/costopt-operator"


class Door:
    """Lets requests through that say the token of the moment, and remembers who was turned away."""

    def __init__(self, behind: kmock.Server, token: str) -> None:
        self._behind = behind
        self.token = token
        self.let_in: set[str] = set()
        """Who came in with the token of the moment: the User-Agent's first word."""
        self.turned_away: list[str] = []
        self._open: set[asyncio.Task[Any]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        said = request.headers.get("Authorization", "")
        if said != f"Bearer {self.token}":
            self.turned_away.append(said)
            status = {"kind": "Status", "status": "Failure", "code": 401, "reason": "Unauthorized", "message": "no"}
            return web.json_response(status, status=401)
        self.let_in.add(request.headers.get("User-Agent", "").split("/")[0])
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            return await self._hand_on(request)
        finally:
            self._open.discard(task)

    async def _hand_on(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        body = await request.read()
        async with self._behind.client.request(
            request.method, request.path_qs, headers=headers, data=body or None
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk.replace(b'"..."', b'"1"'))  # a list's version, which kmock has not
            await response.write_eof()
            return response

    def replace_token(self, token: str) -> None:
        """The old token is revoked, and every connection that it had opened is cut."""
        self.token = token
        self.let_in.clear()
        self.turned_away.clear()
        for task in self._open:
            task.cancel()


class Place:
    """The cluster, and the operator in its pod."""

    def __init__(self, door: Door, behind: kmock.Server, files: PodFiles, port: int, folder: Path) -> None:
        self.door, self.behind, self.files, self.port = door, behind, files, port
        self.log = folder / "operator.log"
        self.own_port = free_port()
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *words: str, host: str = "127.0.0.1", scratch: bool = False, **environment: str) -> None:
        """Start the operator."""
        program = [sys.executable, "-m", "costopt_operator", *(words or ("run", f"--listen=127.0.0.1:{self.own_port}"))]
        environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(self.port), **environment}
        command = in_a_pod(self.files, program, scratch=scratch, **environment)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)

    async def end(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 240)

    async def page(self, path: str) -> str:
        """What its own port answers; empty: nothing."""

        def ask() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.own_port}{path}", timeout=5) as answer:
                    return str(answer.read().decode())
            except OSError:
                return ""

        return await asyncio.to_thread(ask)

    async def until(self, holds: Callable[[], Coroutine[Any, Any, bool]], seconds: float = 240) -> None:
        assert self.process is not None
        end = time.monotonic() + seconds
        while not await holds():
            assert self.process.returncode is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            await asyncio.sleep(0.1)

    async def acts(self) -> bool:
        return await self.page("/readyz") == "acting"

    async def add_job(self, name: str, version: int) -> None:
        job = plain_job()
        made = {"name": name, "namespace": "team", "uid": name, "resourceVersion": str(version), "generation": 1}
        async with self.behind.client.post(JOBS, json={**job, "metadata": made}) as answer:
            assert answer.status == 200, await answer.text()

    async def knows(self, jobs: int) -> bool:
        return f"costopt_jobs {jobs}.0" in await self.page("/metrics")

    async def holder(self) -> str:
        async with self.behind.client.get(LEASE) as answer:
            return str((await answer.json())["spec"]["holderIdentity"]) if answer.status == 200 else ""


@contextlib.asynccontextmanager
async def a_place(folder: Path, host: str = "127.0.0.1") -> AsyncIterator[Place]:
    found, key = certificate(folder / "tls", "IP:127.0.0.1", "IP:::1", "DNS:localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(found, key)
    async with kmock.KubernetesEmulator() as api, kmock.Server(api) as server:
        for name, (kind, namespaced) in OFFERED.items():
            api.resources[name] = {"kind": kind, "namespaced": namespaced, "verbs": VERBS}
        door = Door(server, "one")
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", door.answer)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, host, 0, ssl_context=tls).start()
        files = PodFiles(folder / "account", token="one", authority=found)
        place = Place(door, server, files, runner.addresses[0][1], folder)
        try:
            yield place
        finally:
            if place.process is not None and place.process.returncode is None:
                place.process.kill()
                await place.process.wait()
            await runner.cleanup()


def play(folder: Path, act: Callable[[Place], Coroutine[Any, Any, None]], host: str = "127.0.0.1") -> None:
    async def go() -> None:
        async with a_place(folder, host) as place:
            await act(place)

    asyncio.run(asyncio.wait_for(go(), 180))


@pytest.mark.parametrize(
    ("scratch", "environment"),
    [
        (False, {}),
        (True, {"HOME": "/nonexistent", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}),
    ],
    ids=["nothing to write to, no environment", "a home that is not there, a proxy that does not serve"],
)
def test_the_operator_acts_and_goes_on_when_its_token_is_replaced(
    tmp_path: Path, scratch: bool, environment: dict[str, str]
) -> None:
    async def act(place: Place) -> None:
        await place.start(scratch=scratch, **environment)
        await place.until(place.acts)
        assert (await place.holder()).startswith(
            f"{socket.gethostname()}_"
        )  # in the namespace that the pod's file names
        await place.add_job("first", 5)
        await place.until(lambda: place.knows(1))
        assert place.door.turned_away == []
        place.files.renew_token("two")
        place.door.replace_token("two")
        await place.add_job("second", 6)
        await place.until(lambda: place.knows(2))
        await place.until(lambda: asyncio.sleep(0, "kopf" in place.door.let_in))
        assert await place.acts()
        assert await place.end() == 0
        assert "Traceback" not in place.log.read_text()

    play(tmp_path, act)


def test_an_api_server_that_refuses_a_good_token_for_a_while_does_not_end_the_operator(tmp_path: Path) -> None:
    async def act(place: Place) -> None:
        await place.start("run", f"--listen=127.0.0.1:{place.own_port}", "--no-leader-election")
        await place.until(place.acts)
        place.door.replace_token("not yet known")
        began = time.monotonic()

        async def is_refused_for_a_while() -> bool:
            return bool(place.door.turned_away) and time.monotonic() - began > 4

        await place.until(is_refused_for_a_while)
        assert len(place.door.turned_away) < 25 * (time.monotonic() - began), "it does not ask without a pause"
        place.door.replace_token("one")
        await place.add_job("first", 5)
        await place.until(lambda: place.knows(1))
        assert await place.end() == 0

    play(tmp_path, act)


def test_an_api_server_at_an_ipv6_address(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")

    async def act(place: Place) -> None:
        await place.start(host="::1")
        await place.until(place.acts)

    play(tmp_path, act, "::1")


def test_the_hook_that_releases_finalizers_runs_in_a_pod(tmp_path: Path) -> None:
    async def act(place: Place) -> None:
        await place.start("release-finalizers")
        assert place.process is not None
        assert await asyncio.wait_for(place.process.wait(), 240) == 0, place.log.read_text()
        assert place.door.turned_away == []

    play(tmp_path, act)


def test_probes_are_answered_on_all_addresses_of_either_family(tmp_path: Path) -> None:
    async def act(place: Place) -> None:
        await place.start("run", f"--listen=:{place.own_port}")
        await place.until(place.acts)
        if socket.has_ipv6:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://[::1]:{place.own_port}/readyz") as answer,
            ):
                assert answer.status == 200

    play(tmp_path, act)


def test_a_service_account_that_is_broken_is_one_sentence(tmp_path: Path) -> None:
    async def act(place: Place) -> None:
        place.files.write("ca.crt", "")
        await place.start()
        assert place.process is not None
        assert await asyncio.wait_for(place.process.wait(), 240) == 2
        assert (
            place.log.read_text().splitlines()[-1].endswith("ca.crt must hold the API server's certificate authority")
        )

    play(tmp_path, act)


def test_an_address_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    async def act(place: Place) -> None:
        with socket.create_server(("127.0.0.1", place.own_port)):
            await place.start()
            assert place.process is not None
            assert await asyncio.wait_for(place.process.wait(), 240) == 2
        told = " ".join(re.sub(r"[^ -~]", " ", place.log.read_text()).split())
        assert f"must be an address that is free here, and 127.0.0.1:{place.own_port} is not: Address already" in told
        assert "Traceback" not in told

    play(tmp_path, act)
