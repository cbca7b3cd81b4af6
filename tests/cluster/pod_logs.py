"""The part of a kubelet that serves container logs: `python -m cluster.pod_logs FOLDER PORT CERTIFICATE KEY`.

A pod's log is `FOLDER/<namespace>/<pod>.log`, or, for pods whose names end in five random characters, the file named
without them (`<namespace>/train-a0-0.log`), or `<namespace>/all.log`; without any of these it is empty. Each line
begins with its time (RFC 3339) and a space, as in a container runtime's log.
"""

import ssl
import sys
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

FOLLOW_SECONDS = 60
"""How long a following reader is served; a kubelet's end is that of the container."""


def append_log(folder: Path, namespace: str, name: str, lines: list[str]) -> None:
    """Add lines, said now, to the log of `name`."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    path = folder / namespace / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.writelines(f"{now} {line}\n" for line in lines)


def read_log(folder: Path, namespace: str, pod: str) -> list[str]:
    """All lines of a pod's log, with their times."""
    for name in (pod, pod.rpartition("-")[0] or pod, "all"):
        path = folder / namespace / f"{name}.log"
        if path.exists():
            return path.read_text(encoding="utf-8").splitlines(keepends=True)
    return []


def select(lines: list[str], query: dict[str, str], now: datetime) -> bytes:
    """The part of a log that a request asked for (tailLines, sinceTime, sinceSeconds, timestamps, limitBytes)."""
    since = datetime.min.replace(tzinfo=UTC)
    if "sinceTime" in query:
        since = datetime.fromisoformat(query["sinceTime"])
    elif "sinceSeconds" in query:
        since = now - timedelta(seconds=int(query["sinceSeconds"]))
    chosen = [line for line in lines if datetime.fromisoformat(line.split(" ", 1)[0]) >= since]
    if "tailLines" in query:
        tail = int(query["tailLines"])
        chosen = chosen[-tail:] if tail else []
    if query.get("timestamps") != "true":
        chosen = [line.split(" ", 1)[1] for line in chosen]
    content = "".join(chosen).encode()
    return content[: int(query["limitBytes"])] if "limitBytes" in query else content


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        words = url.path.strip("/").split("/")
        if len(words) != 4 or words[0] != "containerLogs":
            self.send_error(404)
            return
        _, namespace, pod, _container = words
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        lines = read_log(self.folder, namespace, pod)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(select(lines, query, datetime.now(UTC)))
        if query.get("follow") == "true":
            self._follow(namespace, pod, len(lines), query)
        self.wfile.write(b"0\r\n\r\n")

    def _follow(self, namespace: str, pod: str, seen: int, query: dict[str, str]) -> None:
        shape = {"timestamps": query.get("timestamps", "false")}
        deadline = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < deadline:
            lines = read_log(self.folder, namespace, pod)
            self._chunk(select(lines[seen:], shape, datetime.now(UTC)))
            seen = len(lines)
            time.sleep(0.1)

    def _chunk(self, content: bytes) -> None:
        if content:
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


def main(folder: str, port: str, certificate: str, key: str) -> None:
    """Serve until ended."""
    _Requests.folder = Path(folder)
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), _Requests)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
