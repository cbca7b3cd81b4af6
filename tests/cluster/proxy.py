"""A TCP proxy on loopback that can cut all its connections, or fall silent: a bad network to the API server."""

import contextlib
import json
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on between its own port and `target`, `host:port`, until told otherwise."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self.connections = 0
        """Connections accepted so far."""

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._flows.set()
        self.cut()

    def kubeconfig(self, original: Path) -> Path:
        """A copy of a kubeconfig that goes through the proxy."""
        document = json.loads(original.read_text(encoding="utf-8"))
        document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        path = original.with_name(f"proxied-{self.port}.kubeconfig")
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def cut(self) -> int:
        """Break all connections that there are, without a goodbye; returns how many."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        return len(pairs)

    def hold(self) -> None:
        """Pass nothing on any more: connections stay open and say nothing."""
        self._flows.clear()

    def go_on(self) -> None:
        """Pass everything on again, what was held included."""
        self._flows.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self.connections += 1
            with self._lock:
                self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def address_in(kubeconfig: Path) -> str:
    """The API server of a kubeconfig, as `host:port`."""
    document = json.loads(kubeconfig.read_text(encoding="utf-8"))
    return urlsplit(document["clusters"][0]["cluster"]["server"]).netloc
