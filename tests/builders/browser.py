"""Chromium without a window, asked over its own protocol: how a page looks, and what it did to look so."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builders.waiting import wait_for

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Tab:
    """A page in the browser."""

    socket: Any
    requests: list[str] = field(default_factory=list)
    """URLs that it has asked for."""
    complaints: list[str] = field(default_factory=list)
    """What stands in its console."""
    _number: int = 0

    def ask(self, method: str, **params: Any) -> Any:
        """One command, and its result; what happens meanwhile is noted."""
        self._number += 1
        self.socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = json.loads(self.socket.recv())
            self._note(told)
            if told.get("id") == self._number:
                assert "error" not in told, (method, told["error"])
                return told["result"]

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(params))

    def look(self, file: Path, *, width: int, scheme: str) -> None:
        """Open `file` in a window of that width, light or dark, and wait until it is drawn."""
        for domain in ("Network", "Log", "Runtime", "Page"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=file.as_uri())
        wait_for(lambda: self.value("document.readyState + location.href") == f"complete{file.as_uri()}")

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives, as plain data."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG, in base64."""
        return bytes(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"], "ascii")


@contextlib.contextmanager
def chromium() -> Iterator[Tab]:
    """A tab of a fresh browser, which reaches no network; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("there is no Chromium here (make browser installs it on Debian)")
    websocket = pytest.importorskip("websocket")
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        words = [
            *(program, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"),
            *("--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars", "--disable-component-update"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            "about:blank",
        ]
        environment = {**os.environ, "HOME": profile}
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        try:
            port_file = Path(profile, "DevToolsActivePort")
            wait_for(lambda: process.poll() is not None or (port_file.exists() and port_file.read_text().count("\n")))
            assert process.poll() is None, "Chromium has ended before it could be asked"
            port = port_file.read_text().split()[0]
            yield from _tab(websocket, port)
        finally:
            process.terminate()
            process.wait(timeout=240)


def _tab(websocket: Any, port: str) -> Iterator[Tab]:
    from urllib.request import Request, urlopen

    # A new tab, made by us: which of those at the start is a page is the browser's own affair.
    with urlopen(Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")) as answer:
        address = json.load(answer)["webSocketDebuggerUrl"]
    socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
    try:
        yield Tab(socket)
    finally:
        socket.close()
