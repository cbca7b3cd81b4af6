"""Where data may lie: lists, patterns, packed files, and URLs, whose files are copied once."""

import errno
import gzip
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from builders.data import (
    image_settings,
    labelled_settings,
    records_settings,
    refused_in_one_sentence,
    text_settings,
    write_images,
    write_labelled,
)
from costopt.schema.data import DataSettings
from costopt.schema.data_places import has_secret
from costopt_trainer.data import load_data
from costopt_trainer.data.documents import joined
from costopt_trainer.data.files import troubles
from costopt_trainer.data.files.local import reading_order
from costopt_trainer.data.files.troubles import Unreachable
from costopt_trainer.data.sources.table import open_source
from costopt_trainer.errors import NotRetryable

PROSE = "Größe, naïveté, 東京 und 🙂: the cat sat on the mat.\n"


def text_of(settings: DataSettings, cache: Path | None = None, own: Path | None = None) -> list[str]:
    source = open_source(settings, own, cache)
    return b"".join(joined(source.documents())).decode().split("\0")  # type: ignore[union-attr]


def several(*paths: object, **fields: Any) -> DataSettings:
    return DataSettings.model_validate({"type": "Text", "text": {"paths": [str(path) for path in paths], **fields}})


def put(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def pack(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(content)
    return path


# Places on this machine.


def test_places_are_read_in_the_order_given_and_a_file_of_two_of_them_once(tmp_path: Path) -> None:
    b, a = put(tmp_path / "z/b.txt", "b"), put(tmp_path / "a.md", "a")
    assert text_of(several(b, a, tmp_path / "z", tmp_path / "*.md")) == ["b", "a"]


def test_a_pattern_matches_files_and_folders_at_any_depth(tmp_path: Path) -> None:
    names = ["2024/a.txt", "2024/deep/b.txt", "2025/c.txt", "2025/d.md", ".hidden/e.txt", "2025/.f.txt"]
    for name in names:
        put(tmp_path / name, name)
    in_order = sorted(names[:3], key=reading_order)
    assert text_of(text_settings(tmp_path / "**/*.txt")) == in_order
    assert text_of(text_settings(tmp_path / "20*")) == in_order, "folders that match are searched"
    assert text_of(text_settings(tmp_path / "202[4]/?.txt")) == ["2024/a.txt"]
    assert text_of(text_settings(f"file://{tmp_path}/2025/*.md")) == ["2025/d.md"]


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    put(tmp_path / "a[1].txt", "itself")
    put(tmp_path / "a1.txt", "another")
    assert text_of(text_settings(tmp_path / "a[1].txt")) == ["itself"]


def test_a_pattern_that_matches_nothing_or_what_jobs_write_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "run/metrics.jsonl", "x")
    (tmp_path / "run/.costopt-storage").touch()
    (tmp_path / "run/notes.jsonl").write_text("mine")
    assert text_of(text_settings(tmp_path / "run/*.jsonl")) == ["mine"]
    refused_in_one_sentence(
        text_settings(tmp_path / "*.txt"), r"\*.txt must match files on .*, but matches none", tmp_path
    )


# Packed files.


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_a_packed_text_is_the_text(tmp_path: Path, end: str) -> None:
    text = PROSE * 60_000  # of more than a piece
    pack(tmp_path / f"a.txt{end}", text.encode())
    assert text_of(text_settings(tmp_path)) == [text]
    plain = put(tmp_path / "plain/a.txt", text)
    one, other = (
        load_data(text_settings(path), context_length=16, cache_dir=tmp_path / "cache")
        for path in (tmp_path / f"a.txt{end}", plain)
    )
    assert one.fingerprint == other.fingerprint
    assert text_of(text_settings(tmp_path, max_bytes=1001)) == [text.encode()[:1001].decode(errors="ignore")]


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_packed_records_are_the_records(tmp_path: Path, end: str) -> None:
    plain = write_labelled(tmp_path / "a.jsonl")
    pack(tmp_path / f"packed.jsonl{end}", plain.read_bytes())
    assert text_of(records_settings(tmp_path / f"packed.jsonl{end}")) == text_of(records_settings(plain))
    first, second = (
        load_data(labelled_settings(path), context_length=16, cache_dir=tmp_path / "cache").fingerprint
        for path in (plain, tmp_path / f"packed.jsonl{end}")
    )
    assert first == second


def test_a_packed_copy_beside_its_file_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "a")
    pack(tmp_path / "a.txt.gz", b"copy")
    pack(tmp_path / "b.txt.gz", b"b")
    assert sorted(text_of(text_settings(tmp_path))) == ["a", "b"]


@pytest.mark.parametrize("end", [".gz", ".zst"])
@pytest.mark.parametrize("spoiled", ["cut", "short", "rubbish"])
def test_a_packed_file_that_is_not_whole_is_refused(tmp_path: Path, end: str, spoiled: str) -> None:
    packed = pack(tmp_path / f"a.jsonl{end}", os.urandom(9000).hex().encode())
    whole = packed.read_bytes()
    packed.write_bytes({"cut": whole[: len(whole) // 2], "short": whole[:-3], "rubbish": b"hello world" * 99}[spoiled])
    for settings in (text_settings(packed), records_settings(packed)):
        refused_in_one_sentence(
            settings, f"a.jsonl{end} must be a whole .* file, but is cut short or damaged", tmp_path
        )


def test_files_that_are_no_text_are_left_out_if_asked_for(tmp_path: Path) -> None:
    for name in "abcdefgh":
        put(tmp_path / f"{name}.txt", name)
    (tmp_path / "x.txt").write_bytes(b"fine, then \xff")
    (tmp_path / "y.txt.gz").write_bytes(gzip.compress(b"cut" * 99)[:-4])
    for name in ("x.txt", "y.txt.gz"):
        refused_in_one_sentence(text_settings(tmp_path / name), f"{name} must be", tmp_path / "cache")
    skipping = {"onBadSample": "Skip", "maxBadPercent": 20}
    assert sorted(text_of(several(tmp_path, **skipping))) == list("abcdefgh")
    [note] = open_source(several(tmp_path, **skipping)).notes  # type: ignore[union-attr]
    assert note.startswith("2 of 10 samples are bad and left out; the first: ")
    refused_in_one_sentence(
        several(tmp_path, **skipping | {"maxBadPercent": 19}),
        "at most 19 percent .* but 2 of 10 are bad",
        tmp_path / "c",
    )


# URLs.


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """A place of files in this process' memory, and no waiting between tries."""
    monkeypatch.setattr(troubles, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


def copies(cache: Path) -> list[Path]:
    return sorted(
        path for path in (cache / "copies").rglob("*") if path.is_file() and path.suffix not in (".lock", ".used")
    )


def test_text_behind_a_url_is_the_text(tmp_path: Path, memory: MemoryFileSystem) -> None:
    for name in ("a.txt", "deep/b.txt", "deep/c.md", ".hidden/d.txt"):
        memory.pipe(f"/corpus/{name}", name.encode())
        put(tmp_path / "corpus" / name, name)
    cache = tmp_path / "cache"
    on_disk = text_of(text_settings(tmp_path / "corpus"))
    assert sorted(on_disk) == ["a.txt", "deep/b.txt"]
    assert text_of(text_settings("memory://corpus"), cache) == on_disk, "in the same order"
    assert text_of(text_settings("memory://corpus/deep/c.md"), cache) == ["deep/c.md"]
    assert text_of(text_settings("memory://corpus/**/*.md"), cache) == ["deep/c.md"]
    assert text_of(several("memory://corpus/*.txt", tmp_path / "corpus/deep/c.md"), cache) == ["a.txt", "deep/c.md"]


def test_a_copy_is_made_once_and_again_for_another_version(
    tmp_path: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    get = MemoryFileSystem.get_file
    monkeypatch.setattr(
        MemoryFileSystem, "get_file", lambda self, path, *a, **k: (fetched.append(path), get(self, path, *a, **k))
    )
    memory.pipe("/a.txt", b"first version")
    settings, cache = text_settings("memory://a.txt"), tmp_path / "cache"
    assert text_of(settings, cache) == text_of(settings, cache) == ["first version"]
    assert fetched == ["/a.txt"]
    memory.pipe("/a.txt", b"other version")
    assert text_of(settings, cache) == ["other version"]
    assert len(copies(cache)) == 1, "the copy of the first version is gone"


def test_packed_records_and_arrays_may_lie_behind_urls(tmp_path: Path, memory: MemoryFileSystem) -> None:
    records = write_labelled(tmp_path / "a.jsonl").read_bytes()
    memory.pipe("/d/a.jsonl.gz", gzip.compress(records))
    memory.pipe("/d/images.npz", write_images(tmp_path / "images.npz").read_bytes())
    cache = tmp_path / "cache"
    for settings in (labelled_settings("memory://d"), image_settings("memory://d/images.npz")):
        data = load_data(settings, context_length=16, cache_dir=cache)
        assert data.num_train_samples == 36


def test_a_cache_that_cannot_be_written_to_still_serves_its_copies(tmp_path: Path, memory: MemoryFileSystem) -> None:
    memory.pipe("/a.txt", b"some text")
    cache = tmp_path / "cache"
    assert text_of(text_settings("memory://a.txt"), cache) == ["some text"]
    for lock in (cache / "copies").glob(".*.lock"):
        lock.unlink()
        lock.mkdir()  # nobody can hold it any more
    assert text_of(text_settings("memory://a.txt"), cache) == ["some text"]
    memory.pipe("/a.txt", b"other text")
    refused_in_one_sentence(text_settings("memory://a.txt"), "the cache of copies cannot be used: .* must be", cache)
    (tmp_path / "file").touch()
    refused_in_one_sentence(text_settings("memory://a.txt"), "the cache .* must be a folder", tmp_path / "file")


def test_ranks_that_start_at_once_fetch_a_file_once(
    tmp_path: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, fetched = threading.Semaphore(0), []
    info, get = MemoryFileSystem.info, MemoryFileSystem.get_file

    def look(self: MemoryFileSystem, *arguments: Any, **also: Any) -> Any:
        looked.release()
        return info(self, *arguments, **also)

    def fetch(self: MemoryFileSystem, *arguments: Any, **also: Any) -> None:
        fetched.append(arguments)
        for _ in range(3 if len(fetched) == 1 else 0):  # until all have looked, and found no copy
            assert looked.acquire(timeout=60)
        get(self, *arguments, **also)

    memory.pipe("/a.txt", b"some text")
    monkeypatch.setattr(MemoryFileSystem, "info", look)
    monkeypatch.setattr(MemoryFileSystem, "get_file", fetch)
    with ThreadPoolExecutor(3) as ranks:
        texts = list(ranks.map(lambda _: text_of(text_settings("memory://a.txt"), tmp_path), range(3)))
    assert texts == [["some text"]] * 3
    assert len(fetched) == 1


def test_a_full_disk_is_told_at_once(tmp_path: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_also: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    memory.pipe("/a.txt", b"some text")
    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    refused_in_one_sentence(text_settings("memory://a.txt"), "with room for copies, .*: No space left", tmp_path / "c")


class Failing(MemoryFileSystem):
    """A bucket that is in trouble for a number of requests."""

    protocol = "failing"
    cachable = False
    errors: ClassVar[list[Exception | None]] = []
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("failing://", "memory://")))

    def info(self, path: str, **also: Any) -> Any:
        self._trouble()
        return super().info(path, **also)

    def get_file(self, path: str, local: str, **also: Any) -> None:
        Path(local).write_bytes(b"half")
        self._trouble()
        super().get_file(path, local, **also)

    def _trouble(self) -> None:
        error = Failing.errors.pop(0) if Failing.errors else None
        if error is not None:
            raise error


@pytest.fixture
def failing(memory: MemoryFileSystem) -> Iterator[type[Failing]]:
    fsspec.register_implementation("failing", Failing, clobber=True)
    Failing.store.clear()
    Failing.errors = []
    Failing().pipe("/b/a.txt", b"some text")
    yield Failing
    Failing.errors = []


class NoCredentialsError(Exception):
    """Called as boto's."""


class ServerTrouble(Exception):
    """Has a status, as errors of HTTP do."""

    def __init__(self, status: int) -> None:
        super().__init__(f"secret={status}")
        self.status = status


def test_trouble_that_passes_is_waited_for(tmp_path: Path, failing: type[Failing]) -> None:
    failing.errors = [TimeoutError(), ServerTrouble(503), None, ConnectionResetError(), ServerTrouble(429), None]
    assert text_of(text_settings("failing://b/a.txt"), tmp_path) == ["some text"]
    assert failing.errors == []
    assert [path.read_text() for path in copies(tmp_path)] == ["some text"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (NoCredentialsError("key=secret"), "must be read with credentials, but there are none that work"),
        (PermissionError("secret"), "must be readable with the credentials there are, but is not"),
        (ServerTrouble(403), "must be readable with the credentials there are, but is not"),
        (ServerTrouble(404), "must exist, but does not"),
        (FileNotFoundError("secret"), "must exist, but does not"),
    ],
)
def test_trouble_that_stays_is_told_at_once(
    tmp_path: Path, failing: type[Failing], error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(troubles.CREDENTIALS, "failing", "FAILING_KEY")
    failing.errors = [error, None]
    refused_in_one_sentence(
        text_settings("failing://b/a.txt"), f"data.text.path: failing://b/a.txt {sentence}", tmp_path
    )
    assert len(failing.errors) == 1
    failing.errors = [error]
    with pytest.raises(NotRetryable) as caught:
        text_of(text_settings("failing://b/a.txt"), tmp_path)
    assert "secret" not in str(caught.value)
    assert ("set FAILING_KEY in the pod's environment" in str(caught.value)) == ("credentials" in sentence)


def test_a_place_that_cannot_be_reached_fails_the_attempt_after_a_few_tries(
    tmp_path: Path, failing: type[Failing]
) -> None:
    failing.errors = [ServerTrouble(503)] * 4
    with pytest.raises(Unreachable, match=r"failing://b/a.txt must be reach.*4 tries have failed .* status 503\);"):
        text_of(text_settings("failing://b/a.txt"), tmp_path)
    failing.errors = [None, *[ConnectionResetError(104, "secret")] * 4]
    with pytest.raises(Unreachable, match=r"\(the last: Connection reset by peer\);"):
        text_of(text_settings("failing://b/a.txt"), tmp_path)
    assert copies(tmp_path) == [], "nothing half-written"
    assert text_of(text_settings("failing://b/a.txt"), tmp_path) == ["some text"]


def test_a_file_that_ends_early_is_fetched_again(
    tmp_path: Path, failing: type[Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Failing.get_file
    calls: list[str] = []

    def cut(self: Failing, path: str, local: str, **also: Any) -> None:
        calls.append(path)
        Path(local).write_bytes(b"some") if len(calls) == 1 else whole(self, path, local, **also)

    monkeypatch.setattr(Failing, "get_file", cut)
    assert text_of(text_settings("failing://b/a.txt"), tmp_path) == ["some text"]
    assert len(calls) == 2


def test_a_scheme_without_its_package_is_told_which(tmp_path: Path, memory: MemoryFileSystem) -> None:
    pytest.importorskip("fsspec")
    if any(__import__("importlib.util").util.find_spec(name) for name in ("s3fs",)):
        pytest.skip("s3fs is installed here")
    refused_in_one_sentence(
        text_settings("s3://bucket/a.txt"), "s3://bucket/a.txt must be read with the package s3fs", tmp_path
    )
    refused_in_one_sentence(text_settings("nosuch://a.txt"), "must be a URL of a kind that fsspec knows", tmp_path)


def test_a_url_with_a_secret_is_refused_and_not_shown() -> None:
    for url in ("https://me:hush@example.com/a", "s3://KEY:hu/sh@bucket/a", "https://h/a?x=1&sig=hush"):
        assert has_secret(url)
        # As read from settings of an earlier version, whose rules did not know it.
        unchecked = several("a").model_copy(update={"text": several("a").text.model_copy(update={"paths": [url]})})  # type: ignore[union-attr]
        with pytest.raises(NotRetryable, match="must be a plain URL without a password") as caught:
            text_of(unchecked, Path("unused"))
        assert "hush" not in str(caught.value)
        assert "hu/sh" not in str(caught.value)
    for url in ("https://h:80/a@b?download=1", "s3://bucket/a@b", "abfs://container@account.dfs.core.windows.net/a"):
        assert not has_secret(url)


class Handler(http.server.SimpleHTTPRequestHandler):
    failures: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        if Handler.failures:
            self.send_error(Handler.failures.pop(0))
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if Handler.failures:
            self.send_error(Handler.failures.pop(0))
        else:
            super().do_HEAD()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, memory: MemoryFileSystem) -> Iterator[str]:
    """The URL of a server of the files below tmp_path/served."""
    folder = tmp_path / "served"
    folder.mkdir()
    Handler.failures = []
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Handler(*arguments, directory=str(folder))
    ) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_web_server_is_read_through_its_troubles(tmp_path: Path, server: str) -> None:
    write_labelled(tmp_path / "served/a.jsonl")
    settings = records_settings(f"{server}/a.jsonl?download=true")
    Handler.failures = [503, 503, 500]
    assert text_of(settings, tmp_path / "cache") == text_of(records_settings(tmp_path / "served/a.jsonl"))
    assert Handler.failures == []
    refused_in_one_sentence(
        text_settings(f"{server}/none.txt"), "none.txt must exist, but does not", tmp_path / "cache"
    )
    refused_in_one_sentence(
        text_settings(f"{server}/folder/"), "must be the URL of a file, for a web", tmp_path / "cache"
    )
    Handler.failures = [403, 403]
    refused_in_one_sentence(text_settings(f"{server}/none.txt"), "must be readable with the cred", tmp_path / "cache")
    (tmp_path / "served/b.txt").write_text("b")
    twice = several(f"{server}/b.txt?of=1", f"{server}/b.txt?of=2", f"{server}/b.txt?of=1")
    assert text_of(twice, tmp_path / "cache") == ["b", "b"]
    source = open_source(twice, None, tmp_path / "cache")
    assert [document.name for document in source.documents()] == [f"{server}/b.txt", f"{server}/b.txt (2)"]  # type: ignore[union-attr]
    assert "download" not in str(open_source(settings, None, tmp_path / "cache").name)  # type: ignore[union-attr]


def test_a_server_that_is_not_there_cannot_be_reached(tmp_path: Path, memory: MemoryFileSystem) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}/a.txt"
        with pytest.raises(Unreachable, match=f"{url} must be reachable .* Connection refused"):
            text_of(text_settings(url), tmp_path)
