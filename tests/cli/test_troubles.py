"""Every command that talks to a cluster, in every trouble: a sentence, no traceback, no address of a node, no token."""

import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from builders.fake_api import JOBS, PODS, TOKEN, FakeApi, Plain, refused, serving, write_kubeconfig
from builders.local import job
from builders.on_cluster import COMMANDS, Command, Ended, add_job, add_pod, at_home, command, running, succeeded
from costopt.render.text import to_yaml

NODE = "https://10.1.2.3:10250/containerLogs/research/tiny/replica"
LOG = f"{PODS}/tiny-train-a0-0-xyz/log"


HTML = "<!DOCTYPE html><html><h1>503 Service Temporarily Unavailable</h1> https://10.1.2.3/ </html>"


TLS = b"\x16"
"""With this a greeting over TLS begins."""


def page(code: int, content: str = HTML, *, length: int | None = None, more: str = "Connection: close\r\n") -> bytes:
    head = f"HTTP/1.1 {code} Any\r\nContent-Length: {len(content) if length is None else length}\r\n{more}\r\n"
    return f"{head}{content}".encode()


def status(code: int, message: str, **how: str) -> bytes:
    return page(code, json.dumps(refused(code, "Any", message)[1]), **how)  # type: ignore[arg-type]


ANSWERS: dict[str, tuple[bytes | None, str]] = {
    "a reset": (None, "cannot be reached"),
    "nothing": (b"", "the connection was closed without an answer"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
    "truncated JSON": (page(200, '{"kind": "CostOptJob", "meta', length=4000), "cut in the middle of the answer"),
    "half of JSON, whole": (page(200, '{"kind": "CostOptJob", "meta'), "does not answer as an API server does"),
    "JSON of something else": (page(200, '{"error": "log in"}'), "does not answer as an API server does"),
    "JSON that is no object": (page(200, "[]"), "does not answer as an API server does"),
    "an object without a name": (
        page(200, '{"kind": "CostOptJob", "metadata": {}, "items": [{"metadata": {}}]}'),
        "check the",
    ),
    "a login page": (page(200, "<html>log in</html>"), "does not answer as an API server does"),
    "a way to a login page": (
        page(302, "", more="Location: https://10.1.2.3/login\r\nConnection: close\r\n"),
        "as a login page does; log in",
    ),
    "401": (status(401, "Unauthorized"), "does not accept your login, which may have expired"),
    "401 with a page": (page(401), "does not accept your login"),
    "403": (status(403, 'User "ada" cannot do that'), 'does not allow this: User "ada" cannot do that'),
    "403 with a page": (page(403), "does not allow this: a page for a browser"),
    "404": (page(404, "404 page not found\n"), "does not know CostOptJob; install the chart"),
    "409": (status(409, "the object has been modified"), "it has just changed, so repeat the command"),
    "410": (status(410, "The provided continue parameter is too old"), "repeat the command"),
    "429": (status(429, "too many requests"), "is busy (code 429)"),
    "500": (status(500, f'Get "{NODE}": EOF'), "try again"),
    "500 with nothing": (page(500, ""), "has failed at it (code 500: nothing); try again"),
    "500 with odd JSON": (page(500, '{"kind": "Status", "message": 5, "details": []}'), "code 500: 5"),
    "500 of its database": (status(500, "etcdserver: request timed out"), "cannot reach its own database"),
    "500 of a webhook": (
        status(500, f'failed calling webhook "check.example.org": Post "{NODE}": context deadline exceeded'),
        "the admission webhook check.example.org, which does not answer",
    ),
    "502 with a page": (page(502), "is not ready, or what stands before it does not reach it (code 502); try again"),
    "503 with a page": (page(503), "(code 503); try again"),
    "504 with a page": (page(504), "did not answer in time (code 504); try again"),
    "418": (page(418, f"\x1b[2Ja teapot at {NODE}"), "has failed at it (code 418: \\x1b[2Ja teapot at ...)"),
}


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that gives every request this answer and closes; None: a reset. Yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # a client that has its answer may be gone before the end of ours
                connection.settimeout(60)  # a client may come to its request late on a busy machine
                seen = b""
                while b"\r\n\r\n" not in seen and seen[:1] != TLS and (part := connection.recv(65536)):
                    seen += part
                if answer is None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif answer:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@pytest.fixture
def costopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setattr("costopt.cluster.api.BUSY_PAUSES_SECONDS", (0.0,))
    monkeypatch.setattr("costopt.cluster.patience.AGAIN_AFTER_SECONDS", 0.01)
    monkeypatch.setattr("costopt.cluster.pod_logs.AGAIN_AFTER_SECONDS", 0.01)
    monkeypatch.setattr("costopt.cluster.patience.SECONDS", 0.3)
    monkeypatch.setattr("costopt.cli.watch.LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr("costopt.cli.logs_of_job.LOOK_EVERY_SECONDS", 0.05)
    return command(monkeypatch, capsys)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(to_yaml([job(name="tiny").to_plain()]))
    return path


def sentence(ended: Ended) -> str:
    """What was said: one sentence, fit for anybody's eyes."""
    assert ended.code == 2, ended
    assert len(ended.err.splitlines()) == 1, ended.err
    assert ended.err.startswith("costopt ")
    for secret in (TOKEN, "10.1.2.3", ":10250", "Traceback", "<html", "urllib3", "Error("):
        assert secret not in ended.err, ended.err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", ended.err), repr(ended.err)
    return ended.err


@pytest.mark.parametrize("trouble", ANSWERS)
def test_every_command_says_one_sentence_in_every_trouble(
    tmp_path: Path, costopt: Command, manifest: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    answer, said = ANSWERS[trouble]
    with answering(answer) as url:
        at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", url))
        for name, arguments in COMMANDS.items():
            assert said in sentence(costopt(*arguments)), name


@pytest.mark.parametrize(
    "trouble",
    [
        ("http://127.0.0.1:1", "(Connection refused)"),
        ("https://{there}", "no secure connection could be made"),
        ("http://no-such-host.invalid", "its name is not known"),
    ],
    ids=["refused", "not TLS", "no such name"],
)
def test_every_command_says_one_sentence_when_nothing_answers(
    tmp_path: Path, costopt: Command, manifest: Path, monkeypatch: pytest.MonkeyPatch, trouble: tuple[str, str]
) -> None:
    server, said = trouble
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        where = server.format(there=url.removeprefix("http://"))
        at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", where))
        for name, arguments in COMMANDS.items():
            assert said in sentence(costopt(*arguments)), name


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    fake = FakeApi()
    with serving(fake) as url:
        at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", url))
        yield fake


def training(api: FakeApi) -> Plain:
    owner = add_job(api, status=running())
    add_pod(api, owner, "train", 0, 0)
    return owner


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        (
            500,
            f'Get "{NODE}": dial tcp 10.1.2.3:10250: connect: connection refused',
            "that runs the pod does not answer",
        ),
        (502, "proxy error from 10.9.9.9:6443 while dialing 10.1.2.3:10250", "that runs the pod does not answer"),
        (400, 'container "replica" in pod "tiny-0" is waiting to start: ContainerCreating', "its container is waiting"),
        (400, 'previous terminated container "replica" in pod "tiny-0" not found', "no log of a container before"),
        (404, 'container not found ("replica")', "no such container"),
        (
            500,
            "unable to retriece: failed to try resolving symlinks in path /var/log/pods/x",
            "no log of that container",
        ),
    ],
)
def test_a_log_that_cannot_be_had(api: FakeApi, costopt: Command, code: int, message: str, said: str) -> None:
    training(api)
    api.instead["GET", LOG] = refused(code, "Any", message)
    assert said in sentence(costopt("logs", "tiny"))


def test_a_log_is_followed_through_an_outage_of_its_node_which_is_told_once(api: FakeApi, costopt: Command) -> None:
    owner = training(api)
    away = refused(500, "InternalError", f'Get "{NODE}": dial tcp 10.1.2.3:10250: connect: connection refused')
    answers = iter([away, away, away])

    def log() -> tuple[int, object]:
        found = next(answers, None)
        if found is not None:
            return found
        api.add(JOBS, {**owner, "status": succeeded()})
        add_pod(api, owner, "train", 0, 0, phase="Succeeded")
        return 200, "2026-03-04T12:00:00Z a line\n"

    api.instead["GET", LOG] = log
    ended = costopt("logs", "tiny", "--follow")
    assert (ended.code, ended.out) == (0, "train-a0-0 | a line\n")
    assert ended.err.count("that runs the pod does not answer") == 1
    assert ended.err.count("the cluster answers again") == 1


@pytest.mark.parametrize("verb", [("watch", "tiny"), ("logs", "tiny", "--follow")], ids=["watch", "logs --follow"])
def test_an_outage_that_does_not_end_is_waited_out_for_a_bounded_time(
    api: FakeApi, costopt: Command, verb: tuple[str, ...]
) -> None:
    owner = training(api)
    looks = iter([(200, owner)])
    api.instead["GET", f"{JOBS}/tiny"] = lambda: next(looks, refused(503, "ServiceUnavailable", "starting"))
    api.instead["GET", LOG] = refused(503, "ServiceUnavailable", "starting")
    ended = costopt(*verb)
    assert ended.code == 2
    assert "given up after" in ended.err
    assert "while the job goes on" in ended.err
    assert (ended.out + ended.err).count("trying again for up to") == 1


def test_a_connection_that_was_kept_and_is_closed_at_the_next_question_is_made_anew(
    tmp_path: Path, costopt: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that is too old is asked for again, over the same connection; the server has just had enough of that."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[str] = []

    def question(connection: socket.socket) -> None:
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += connection.recv(65536)
        asked.append(seen.split()[0].decode())

    def serve() -> None:
        first, _ = listener.accept()
        with first:
            question(first)
            first.sendall(status(410, "The provided continue parameter is too old", more=""))
            question(first)
        second, _ = listener.accept()
        with second:
            question(second)
            second.sendall(page(200, json.dumps({"kind": "CostOptJobList", "metadata": {}, "items": []})))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", url))
    ended = costopt("status", "-n", "research")
    thread.join(60)
    listener.close()
    assert (ended.code, ended.err, asked) == (0, "", ["GET", "GET", "GET"])


def test_a_list_that_has_become_too_old_is_begun_anew(api: FakeApi, costopt: Command) -> None:
    add_job(api, "one")
    old = refused(410, "Expired", "The provided continue parameter is too old")
    answers: Iterator[tuple[int, object]] = iter([old, old])
    whole = {"metadata": {}, "items": [api.stored[f"{JOBS}/one"]]}
    api.instead["GET", JOBS] = lambda: next(answers, (200, whole))
    assert " one " in costopt("status", "-n", "research").out
