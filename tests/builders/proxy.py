"""An operator process that talks to the API server through a proxy, which kills it at a chosen write.

    operator ──HTTP──▶ proxy ──HTTPS──▶ API server
                         └──▶ SIGKILL before the chosen write is forwarded, or after it is done and before its answer

The operator is the real program. It is forked from a process that has already imported everything, because a cold start
takes two seconds of CPU time, and there are about a hundred starts.
"""

import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import aiohttp
from aiohttp import web

from cluster.control_plane import ControlPlane

Moment = Literal["before", "after"]

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["costopt_operator.__main__"])
_PR_SET_PDEATHSIG = 1
_OF_THIS_HOP = frozenset({"host", "connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"})
"""Hop-by-hop headers, which are not forwarded."""


@dataclass(frozen=True)
class Crash:
    """The operator dies at its `write`-th write, counted from 1, or at the first one of that name, such as "POST jobs":
    before it is done, or after."""

    moment: Moment
    write: int | str


class Upstream:
    """The API server behind the proxies, with full rights; one connection pool for all."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.url = control_plane.url
        self.token = control_plane.credentials.token("admin")
        self._ca = control_plane.credentials.ca

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=self._ca), limit=0)
        no_limit = aiohttp.ClientTimeout(total=None)
        self.session = aiohttp.ClientSession(connector=connector, timeout=no_limit, auto_decompress=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()


class Operator:
    """One operator process of one namespace, from its start to its death."""

    def __init__(self, upstream: Upstream, namespace: str, folder: Path, crash: Crash | None = None) -> None:
        self._upstream = upstream
        self._namespace = namespace
        self._folder = folder
        self._crash = crash
        self.killed = asyncio.Event()
        """Set once it is dead."""
        self._cut_off = False
        self._death: asyncio.Future[None] | None = None
        self.writes: list[str] = []
        """Its write requests, such as "PUT costoptjobs/life/status"; leases and reads do not count."""
        self.last_write = 0.0
        """Time of its last one, by the event loop's clock."""

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._hand_on)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        kubeconfig = self._folder / f"{self._namespace}-{port}.kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(f"http://127.0.0.1:{port}", self._upstream.token)))
        words = ["run", "--no-leader-election", "--namespace", self._namespace, "--listen", "127.0.0.1:0"]
        words += ["--log-format", "text", "--kubeconfig", str(kubeconfig)]
        self.last_write = asyncio.get_running_loop().time()
        self._process = _FORKS.Process(target=run_operator, args=(words, str(self.log)), daemon=True)
        await asyncio.to_thread(self._process.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        await self._runner.cleanup()

    @property
    def log(self) -> Path:
        """Log file of the processes of this namespace."""
        return self._folder / f"{self._namespace}.log"

    @property
    def ended_by_itself(self) -> bool:
        """Whether the process ended without being killed, which it never may."""
        return not self._cut_off and not self._process.is_alive()

    async def kill(self) -> None:
        """SIGKILL; returns once it is dead. From now on its requests are not forwarded."""
        self._cut_off = True
        if self._death is None:
            self._death = asyncio.ensure_future(self._die())
        # The caller may be answering one of its requests, and ends with the connection.
        await asyncio.shield(self._death)

    async def _die(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.join)
        self.killed.set()

    async def _hand_on(self, request: web.Request) -> web.StreamResponse:
        if request.method in ("GET", "HEAD") or "/leases" in request.path:
            return await self._answer(request, b"")
        body = await request.read()
        if self._cut_off:
            return self._no_answer(request)
        self.writes.append(f"{request.method} {_short(request.path)}")
        self.last_write = asyncio.get_running_loop().time()
        due = self._crash is not None and self._crash.write in (len(self.writes), self.writes[-1])
        if due and self._crash is not None and self._crash.moment == "before":
            await self.kill()
            return self._no_answer(request)
        if due:
            # Every later request comes after this write and must not be done.
            self._cut_off = True
            async with self._forwarded(request, body) as answer:
                await answer.read()
            await self.kill()
            return self._no_answer(request)
        return await self._answer(request, body)

    async def _answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        try:
            async with self._forwarded(request, body) as answer:
                headers = {name: text for name, text in answer.headers.items() if name.lower() not in _OF_THIS_HOP}
                response = web.StreamResponse(status=answer.status, headers=headers)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, ConnectionError):
            return self._no_answer(request)

    @contextlib.asynccontextmanager
    async def _forwarded(self, request: web.Request, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {name: text for name, text in request.headers.items() if name.lower() not in _OF_THIS_HOP}
        url = f"{self._upstream.url}{request.raw_path}"
        async with self._upstream.session.request(request.method, url, headers=headers, data=body or None) as answer:
            yield answer

    @staticmethod
    def _no_answer(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)


def run_operator(words: list[str], log: str) -> None:
    """The program, in a forked process that ends with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from costopt_operator.__main__ import main

    sys.argv = ["costopt-operator", *words]
    main()


def _short(path: str) -> str:
    """A path without its group and namespace."""
    parts = path.split("/")
    return "/".join(parts[parts.index("namespaces") + 2 :] if "namespaces" in parts else parts[-1:])


def _kubeconfig(url: str, token: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "test"}}],
        "current-context": "proxy",
    }
