"""A small API server in this process, for tests for which a real one starts too slowly: answers are plain data in a
dict, and every request is recorded. It validates nothing; tests/cluster uses a real one.
"""

import json
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

Plain = dict[str, Any]

JOBS = "/apis/costopt.dev/v1alpha1/namespaces/research/costoptjobs"
BOOKS = "/apis/costopt.dev/v1alpha1/pricebooks"
PODS = "/api/v1/namespaces/research/pods"

TOKEN = "sha256~a-token-that-nobody-may-ever-read-in-any-message-of-ours"


@dataclass
class Request:
    """One request, as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Plain | None


Answer = tuple[int, Any]
"""HTTP status, and the body: plain data, or text as it is."""


@dataclass
class FakeApi:
    """Stored documents by path, and answers that replace them by (method, path)."""

    stored: dict[str, Plain] = field(default_factory=dict)
    instead: dict[tuple[str, str], Answer | Callable[[], Answer]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def add(self, collection: str, document: Plain) -> Plain:
        """Store a document, with what the API server adds to its metadata."""
        path = f"{collection}/{document['metadata']['name']}"
        metadata = {
            "uid": self.stored[path]["metadata"]["uid"] if path in self.stored else str(uuid.uuid4()),
            "creationTimestamp": "2026-03-04T12:00:00Z",
            "generation": 1,
            **({"namespace": "research"} if "namespaces" in collection else {}),
            **document["metadata"],
        }
        self.stored[path] = {**document, "metadata": metadata}
        return self.stored[path]

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of that method and path, in order."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def answer(self, request: Request) -> Answer:
        """The current answer."""
        self.requests.append(request)
        other = self.instead.get((request.method, request.path))
        if other is not None:
            return other() if callable(other) else other
        collection, _, name = request.path.rpartition("/")
        match request.method:
            case "GET" if request.path in self.stored:
                return 200, self.stored[request.path]
            case "GET" if name in ("costoptjobs", "pods", "pricebooks"):
                wanted = dict(parse_qsl(request.query.get("labelSelector", "").replace(",", "&")))
                of_collection = [item for path, item in self.stored.items() if path.startswith(f"{request.path}/")]
                items = [item for item in of_collection if wanted.items() <= item["metadata"].get("labels", {}).items()]
                return 200, {"kind": "List", "metadata": {}, "items": items}
            case "PATCH" if request.headers["content-type"] == "application/merge-patch+json":
                assert request.body is not None
                self.stored[request.path]["spec"].update(request.body["spec"])
                return 200, self.stored[request.path]
            case "PATCH":
                assert request.body is not None
                before = self.stored.get(request.path)
                after = self.add(collection, {**(before or {}), **request.body})
                if "dryRun" in request.query:
                    del self.stored[request.path]
                    self.stored.update({request.path: before} if before else {})
                return (200 if before else 201), after
            case "DELETE" if request.path in self.stored:
                return 200, self.stored.pop(request.path)
        return not_found(collection.rpartition("/")[2], name)


def refused(code: int, reason: str, message: str, **details: Any) -> Answer:
    """A refusal as the API server sends it."""
    return code, {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "details": details}


def not_found(kind: str, name: str) -> Answer:
    """404, for an object of a known kind."""
    return refused(404, "NotFound", f'{kind}.costopt.dev "{name}" not found', kind=kind, name=name)


@contextmanager
def serving(api: FakeApi, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve until the end of the block, over TLS if it is given; yields the URL."""

    class OneRequest(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, url.path, dict(parse_qsl(url.query)), headers, body)
            code, content = api.answer(request)
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = do_DELETE = _serve  # noqa: N815 -- http.server's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that does not trust the server has gone: say nothing."""

    server = Server(("127.0.0.1", 0), OneRequest)
    if tls is not None:
        # Each connection does its own handshake: a broken one must not stop the server.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_kubeconfig(path: Path, server: str, *, namespace: str = "research", **user: Any) -> Path:
    """A kubeconfig with one context, `lab`."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "users": [{"name": "ada", "user": user or {"token": TOKEN}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "ada", "namespace": namespace}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path
