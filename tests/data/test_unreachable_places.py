"""Places of data that are in trouble: real servers that refuse, hang up, fall silent, or answer with a status."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders.data import text_settings
from costopt_trainer import rank
from costopt_trainer.data.files import clients, remote, troubles
from costopt_trainer.data.files.troubles import Unreachable, patiently
from costopt_trainer.data.sources.table import open_source
from costopt_trainer.errors import NotRetryable, Retryable
from costopt_trainer.launch.rank_error import ERROR_FILE_VARIABLE, read_error
from costopt_trainer.phases import VOICE
from costopt_trainer.training.process_group import ALONE

pytest.importorskip("fsspec")

Answer = Callable[[socket.socket], None]


class Server:
    """Takes connections on this machine, one at a time, and does with each what `answer` says."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/a.txt"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                with self._socket.accept()[0] as connection:
                    if connection.recv(65536):
                        self.requests += 1
                        self._answer(connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def status(code: int) -> Answer:
    return lambda connection: connection.sendall(f"HTTP/1.1 {code} Word\r\nContent-Length: 0\r\n\r\n".encode())


def half(connection: socket.socket) -> None:
    """The beginning of a file."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")


def silence(connection: socket.socket) -> None:
    """Nothing, until the other side gives up."""
    connection.recv(1)


def hang_up(_connection: socket.socket) -> None:
    """Nothing at all."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(clients, "SILENT_SECONDS", 0.1)


@pytest.fixture
def served() -> Iterator[Callable[[Answer], Server]]:
    """Starts servers, which end with the test."""
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def read(url: str, cache: Path) -> None:
    source = open_source(text_settings(url), None, cache)
    for document in source.documents():  # type: ignore[union-attr]
        list(document.pieces())


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (hang_up, "it hung up without an answer"),
        (half, "it hung up before all had come"),
        (silence, "it did not answer in time"),
        (status(503), "it answers with status 503"),
        (status(429), "it answers with status 429"),
    ],
    ids=["hangs up", "ends early", "is silent", "has failed", "is asked too often"],
)
def test_a_server_in_trouble_is_asked_again_with_a_line_each_time_and_then_told(
    tmp_path: Path,
    served: Callable[[Answer], Server],
    capfd: pytest.CaptureFixture[str],
    answer: Answer,
    seen: str,
) -> None:
    server = served(answer)
    VOICE.speak_up(aloud=True)
    try:
        with pytest.raises(Unreachable) as caught:
            read(server.url, tmp_path)
    finally:
        VOICE.fall_silent()
    assert caught.value.reason == "DataUnreachable"
    assert str(caught.value).removeprefix("data.text.path: ") == (
        f"{server.url} must be reachable from where the job trains, but 3 tries have failed (the last: {seen}); "
        "check that its name is right, and that the network lets the job's processes reach it"
    )
    out, log = capfd.readouterr()
    lines = [line.replace("data.text.path: ", "") for line in log.splitlines() if line.startswith("costopt:")]
    assert lines == [
        f"costopt: {server.url} cannot be reached: {seen}; try {number} of 3 follows in 0.0 s" for number in (2, 3)
    ]
    assert '{"phase":"ReachingData"}' in out.splitlines()


def test_a_port_where_nobody_listens_cannot_be_reached(tmp_path: Path) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match=r"3 tries have failed \(the last: Connection refused\); check"):
            read(f"http://127.0.0.1:{unheard.getsockname()[1]}/a.txt", tmp_path)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (404, "must exist, but does not"),
        (403, "must be readable with the credentials there are, but is not"),
        (401, "must be readable with the credentials there are, but is not"),
        (400, "must be a place that can be asked for files, but its server refuses the request (status 400)"),
    ],
)
def test_an_answer_that_another_try_would_not_change_ends_the_job(
    tmp_path: Path, served: Callable[[Answer], Server], capfd: pytest.CaptureFixture[str], code: int, sentence: str
) -> None:
    server = served(status(code))
    with pytest.raises(NotRetryable) as caught:
        read(server.url, tmp_path)
    assert str(caught.value).startswith(f"data.text.path: {server.url} {sentence}")
    assert server.requests <= 2, "a HEAD and a GET, of one try"
    assert "follows in" not in capfd.readouterr().err


class GoogleError(Exception):
    code = 503


class AzureError(Exception):
    status_code = 404


class BotoError(Exception):
    response = {"ResponseMetadata": {"HTTPStatusCode": 403}}  # noqa: RUF012 - as theirs


class RequestsError(Exception):
    class response:  # noqa: N801 - as theirs
        status_code = 401


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (GoogleError(), Unreachable, "the last: it answers with status 503"),
        (AzureError(), NotRetryable, "must exist, but does not"),
        (BotoError(), NotRetryable, "must be readable with the credentials there are"),
        (RequestsError(), NotRetryable, "must be readable with the credentials there are"),
        (socket.gaierror(-2, "secret"), Unreachable, r"the last: its name is not known here \(DNS\)"),
    ],
    ids=["Google's", "Azure's", "boto's", "requests'", "an unknown name"],
)
def test_errors_of_other_libraries_are_understood(error: Exception, kind: type[Exception], told: str) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(kind, match=told) as caught:
        patiently("data.text.path: s3://bucket/a", "s3", fails)
    assert "secret" not in str(caught.value)


def test_no_try_begins_once_tries_have_taken_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "NO_TRY_AFTER_SECONDS", -1.0)
    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise TimeoutError

    with pytest.raises(Unreachable, match=r"but one try has failed \(the last: it did not answer in time\)"):
        patiently("data.text.path: s3://bucket/a", "s3", fails)
    assert len(tries) == 1


def test_files_of_a_place_that_went_away_are_not_tried_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    tried: list[str] = []

    def gone(_self: object, path: str, *_more: object, **_also: object) -> None:
        tried.append(path)
        raise ConnectionResetError(104, "secret")

    for number in range(200):
        files.pipe(f"/many/{number}.txt", b"x")
    monkeypatch.setattr(type(files), "get_file", gone)
    monkeypatch.setattr(remote, "AT_ONCE", 1)
    try:
        with pytest.raises(Unreachable, match="3 tries have failed"):
            read("memory://many", tmp_path)
    finally:
        files.rm("/many", recursive=True)
    assert len(tried) == 3, "of the first file alone"


def test_limits_of_the_users_own_go_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        pytest.importorskip("fsspec.config").conf, "s3", {"config_kwargs": {"connect_timeout": 99, "other": 1}}
    )
    assert clients.client_options("s3", "a")["config_kwargs"] == {
        "connect_timeout": 99,
        "other": 1,
        "retries": {"max_attempts": 0},
    }
    assert clients.client_options("memory", "a") == {}


def test_a_rank_whose_data_cannot_be_reached_says_so_without_a_traceback_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise Unreachable("data.text.path: s3://bucket/a must be reachable")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setenv(ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    monkeypatch.setattr(rank, "_run", fails)
    monkeypatch.setattr(rank, "leave_at_once", leave)
    with pytest.raises(SystemExit) as left:
        rank.main()
    assert left.value.code == 1
    error = read_error(tmp_path / "error.json")
    assert error is not None
    assert (error.reason, error.sentence) == ("DataUnreachable", "data.text.path: s3://bucket/a must be reachable")
    assert capsys.readouterr().err == "costopt: DataUnreachable: data.text.path: s3://bucket/a must be reachable\n"


def test_ranks_agree_that_it_may_be_tried_again() -> None:
    with pytest.raises(Retryable, match="must be reachable") as caught:
        ALONE.agree(Unreachable("a must be reachable"))
    assert caught.value.reason == "DataUnreachable"
