"""A server whose certificate is not to be trusted: which of the reasons it is, and who can mend it."""

import shutil
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml

from builders.fake_api import TOKEN, FakeApi, serving, write_kubeconfig
from builders.local import job
from builders.on_cluster import COMMANDS, add_job, at_home, command, running
from builders.tls import FAR_AHEAD, LONG_AGO, Authority, Certificate, self_signed
from costopt.render.text import to_yaml

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

HERE = "IP:127.0.0.1"


@dataclass(frozen=True)
class Trust:
    """Who signs, and whom the kubeconfig knows."""

    folder: Path
    known: Authority
    unknown: Authority


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    return Trust(folder, Authority(folder / "known", "known"), Authority(folder / "unknown", "unknown"))


CASES: dict[str, tuple[Callable[[Trust], Certificate], str]] = {
    "self-signed": (
        lambda trust: self_signed(trust.folder, "alone", "/CN=alone", "-addext", f"subjectAltName={HERE}"),
        "is signed by an authority that your kubeconfig does not know",
    ),
    "of an unknown authority": (
        lambda trust: trust.unknown.signed(HERE),
        "is signed by an authority that your kubeconfig does not know",
    ),
    "for another address": (lambda trust: trust.known.signed("IP:192.0.2.1"), "is for another name than 127.0.0.1"),
    "for another name": (lambda trust: trust.known.signed("DNS:example.org"), "is for another name than 127.0.0.1"),
    "expired": (lambda trust: trust.known.signed(HERE, valid=LONG_AGO), "has expired"),
    "not valid yet": (lambda trust: trust.known.signed(HERE, valid=FAR_AHEAD), "is not valid yet"),
}


def kubeconfig(path: Path, server: str, authority: Path, **user: str) -> Path:
    write_kubeconfig(path, server, **user)
    document = yaml.safe_load(path.read_text())
    document["clusters"][0]["cluster"]["certificate-authority"] = str(authority)
    path.write_text(yaml.safe_dump(document))
    return path


def login(user: Certificate) -> dict[str, str]:
    """A kubeconfig's user who greets with this certificate."""
    return {"client-certificate": str(user.file), "client-key": str(user.key)}


@pytest.mark.parametrize("case", CASES)
def test_every_command_says_at_once_what_is_wrong_with_the_servers_certificate(
    tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    (tmp_path / "job.yaml").write_text(to_yaml([job(name="tiny").to_plain()]))
    make, said = CASES[case]
    api, costopt = FakeApi(), command(monkeypatch, capsys)
    with serving(api, make(trust).for_server()) as url:
        known = trust.known.certificate.file
        at_home(monkeypatch, tmp_path, kubeconfig(tmp_path / "kubeconfig", url, known))
        for name, arguments in COMMANDS.items():
            ended = costopt(*arguments)
            assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1), (name, ended)
            assert f"the certificate of the server {said}" in ended.err, name
            assert TOKEN not in ended.err
    assert api.requests == [], "nothing was told to a server that is not trusted"


def test_a_certificate_that_is_right_is_accepted(
    tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = FakeApi()
    add_job(api, status=running())
    with serving(api, trust.known.signed(HERE).for_server()) as url:
        at_home(monkeypatch, tmp_path, kubeconfig(tmp_path / "kubeconfig", url, trust.known.certificate.file))
        assert command(monkeypatch, capsys)("status", "tiny").code == 0


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_a_server_that_does_not_accept_the_users_certificate_is_told_as_such_however_soon_it_closes_the_connection(
    tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    """Its words come after the greeting: a request that is sent later finds only a closed connection."""
    send = HTTPConnection.send

    def later(self: HTTPConnection, data: bytes) -> None:
        time.sleep(seconds)
        send(self, data)

    monkeypatch.setattr(HTTPConnection, "send", later)
    known = trust.known.certificate.file
    with serving(FakeApi(), trust.known.signed(HERE).for_server(clients=known)) as url:
        user = login(trust.unknown.signed(HERE))
        at_home(monkeypatch, tmp_path, kubeconfig(tmp_path / "kubeconfig", url, known, **user))
        ended = command(monkeypatch, capsys)("status", "tiny")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended
    assert "does not accept your certificate; log in again" in ended.err


def test_a_server_that_closes_a_connection_for_another_reason_is_not_said_to_refuse_the_certificate(
    tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = trust.known.certificate.file

    def broken(self: object, data: object) -> None:
        error = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
        error.reason = None
        raise error

    monkeypatch.setattr(HTTPConnection, "send", broken)
    with serving(FakeApi(), trust.known.signed(HERE).for_server(clients=known)) as url:
        user = login(trust.known.signed(HERE))
        at_home(monkeypatch, tmp_path, kubeconfig(tmp_path / "kubeconfig", url, known, **user))
        ended = command(monkeypatch, capsys)("status", "tiny")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended
    assert "cannot be reached at" in ended.err
    assert "certificate" not in ended.err


def test_an_authority_that_is_none_is_the_kubeconfigs_mistake(
    tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n")
    with serving(FakeApi(), trust.known.signed(HERE).for_server()) as url:
        at_home(monkeypatch, tmp_path, kubeconfig(tmp_path / "kubeconfig", url, tmp_path / "ca.crt"))
        ended = command(monkeypatch, capsys)("status", "tiny")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended
    assert "or its authority, cannot be read; mend the kubeconfig" in ended.err
