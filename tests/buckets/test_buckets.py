"""Data in buckets of real servers on this machine, of S3's API and of Google Cloud Storage's.

`make test-buckets` installs what the first needs, into a folder of its own, since its botocore wants python-dateutil
below 3, where the client of Kubernetes wants 3 or newer. The second needs gcsfs in that folder too (.cache/buckets) and
fake-gcs-server on the PATH (`go install github.com/fsouza/fake-gcs-server@latest`).
"""

import contextlib
import json
import logging
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.data import text_settings
from builders.waiting import wait_for
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.files import troubles
from costopt_trainer.errors import NotRetryable

TEXT = "What is here is what is there.\n" * 400
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "us", "AWS_SECRET_ACCESS_KEY": "a-secret-of-ours"}


@dataclass(frozen=True)
class Bucket:
    """One, and how objects come to be there."""

    url: str
    write: Callable[[str, str], object]
    """Name and text of an object."""


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    pytest.importorskip("s3fs", reason="s3fs is not installed: it is the user's to add")
    moto = pytest.importorskip("moto.server", reason="moto[s3] is not installed: a server for these tests")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def google_server() -> Iterator[str]:
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: it is the user's to add")
    program = shutil.which("fake-gcs-server")
    if program is None:
        pytest.skip("fake-gcs-server is not on the PATH: a server for these tests")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    with subprocess.Popen([program, *where, "-backend", "memory"], stderr=subprocess.DEVNULL) as server:
        wait_for(lambda: _answers(port), "answering")
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The process has credentials and the server's address in its environment, as a pod would."""
    import s3fs

    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_server, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if not files.exists("texts"):
        files.mkdir("texts")
    return Bucket("s3://texts", lambda name, text: files.pipe(f"texts/{name}", text.encode()))


@pytest.fixture
def google(google_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    import gcsfs

    def post(path: str, body: str, kind: str) -> None:
        request = urllib.request.Request(google_server + path, body.encode(), {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=30):
            pass

    def write(name: str, text: str) -> None:
        post(f"/upload/storage/v1/b/texts/o?uploadType=media&name={name}", text, "text/plain")

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_server)
    gcsfs.GCSFileSystem.clear_instance_cache()
    with contextlib.suppress(urllib.error.HTTPError):  # made by an earlier test
        post("/storage/v1/b", json.dumps({"name": "texts"}), "application/json")
    return Bucket("gs://texts", write)


@pytest.fixture(params=["s3", "google"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(troubles, "PAUSES_SECONDS", (0.0, 0.0))
    found: Bucket = request.getfixturevalue(request.param)
    return found


def loaded(place: Path | str, folder: Path) -> TrainingData:
    return load_data(text_settings(place), context_length=8, cache_dir=folder / "cache")


def test_a_file_and_a_folder_of_a_bucket_are_read_as_their_likes_on_disk(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    bucket.write("one/a.txt", TEXT)
    here = loaded(tmp_path / "a.txt", tmp_path / "here")
    for name in ("one/a.txt", "one/", "one/*.txt"):
        there = loaded(f"{bucket.url}/{name}", tmp_path / "there")
        assert there.num_train_samples == here.num_train_samples
        first = np.arange(5)
        assert torch.equal(there.train_batch(first)[0], here.train_batch(first)[0])


def test_a_changed_object_is_read_anew(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("changing.txt", TEXT)
    before = loaded(f"{bucket.url}/changing.txt", tmp_path)
    bucket.write("changing.txt", TEXT.replace("here", "then"))
    after = loaded(f"{bucket.url}/changing.txt", tmp_path)
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("name", ["missing.txt", "missing/*.txt", "../nowhere-at-all/a.txt"])
def test_what_is_not_there_is_said_by_its_name_once(
    bucket: Bucket, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = bucket.url.replace("texts", "nowhere-at-all") + "/a.txt" if ".." in name else f"{bucket.url}/{name}"
    with pytest.raises(NotRetryable) as refused:
        loaded(url, tmp_path)
    assert url in str(refused.value)
    assert refused.value.reason == "InvalidData"
    assert not caplog.records


def test_without_credentials_the_sentence_says_what_is_missing_and_no_secret(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    s3.write("kept.txt", TEXT)
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(NotRetryable, match="credentials") as refused:
        loaded("s3://texts/kept.txt", tmp_path)
    assert "s3://texts/kept.txt" in str(refused.value)
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(refused.value)
