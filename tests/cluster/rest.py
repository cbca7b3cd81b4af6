"""The API server without a client program: a few milliseconds per request, so that a test can poll often."""

import base64
import http.client
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

Json = dict[str, Any]

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    status: int
    body: Json

    @property
    def ok(self) -> bool:
        """It did what was asked for."""
        return self.status < 300

    @property
    def message(self) -> str:
        """Its sentence, if it refused."""
        return str(self.body.get("message", ""))


class Rest:
    """Requests with the rights of a kubeconfig that has a token or a certificate; a connection for each thread."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        current = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], current["cluster"])["cluster"]
        user = _named(document["users"], current["user"])["user"]
        self._address = urlsplit(cluster["server"]).netloc
        authority = base64.b64decode(cluster.get("certificate-authority-data", "")).decode() or None
        self._context = ssl.create_default_context(cafile=cluster.get("certificate-authority"), cadata=authority)
        if "client-certificate-data" in user:
            with tempfile.NamedTemporaryFile() as pem:
                pem.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
                pem.flush()
                self._context.load_cert_chain(pem.name)
        elif "client-certificate" in user:
            self._context.load_cert_chain(user["client-certificate"], user["client-key"])
        self._token: str | None = user.get("token")
        self._local = threading.local()

    def send(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Answer:
        """The answer, whatever it is. A connection that was idle for long may be closed: then a new one is opened."""
        headers = {"Content-Type": content_type, **self._authorization}
        text = None if body is None else json.dumps(body)
        for attempt in (1, 2):
            try:
                connection = self._connection()
                connection.request(method, path, text, headers)
                answer = connection.getresponse()
                data = answer.read()
                break
            except (http.client.HTTPException, OSError):
                self._local.connection = None
                if attempt == 2 or method == "POST":
                    raise
        try:
            parsed = json.loads(data)
        except ValueError:
            parsed = {"message": data.decode("utf-8", "replace")}
        return Answer(answer.status, parsed)

    def must(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Json:
        """The body of the answer, which must be a good one."""
        answer = self.send(method, path, body, content_type)
        assert answer.ok, f"{method} {path}: {answer.status} {answer.message}"
        return answer.body

    def get(self, path: str) -> Json | None:
        """The object, or None if there is none."""
        answer = self.send("GET", path)
        if answer.status == 404:
            return None
        assert answer.ok, f"GET {path}: {answer.status} {answer.message}"
        return answer.body

    def items(self, path: str) -> list[Json]:
        """The items of a list."""
        found: list[Json] = self.must("GET", path)["items"]
        return found

    def watch(self, path: str, seconds: int = 600) -> Iterator[Json]:
        """Events of a watch until the server, or the network, ends it. `path` may have a query."""
        connection = http.client.HTTPSConnection(self._address, context=self._context, timeout=seconds)
        joint = "&" if "?" in path else "?"
        target = f"{path}{joint}watch=true&timeoutSeconds={seconds}"
        try:
            connection.request("GET", target, headers=self._authorization)
            answer = connection.getresponse()
            while line := answer.readline():
                yield json.loads(line)
        except (http.client.HTTPException, OSError, ValueError):
            return
        finally:
            connection.close()

    @property
    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _connection(self) -> http.client.HTTPSConnection:
        known: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if known is None:
            known = http.client.HTTPSConnection(self._address, context=self._context, timeout=30)
            self._local.connection = known
        return known


def _named(entries: list[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)
