"""A pod's service account: its address, its token as it changes, its authority; and `costopt` in a pod."""

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from builders.pod import PodFiles, certificate, in_a_pod, why_no_pod
from costopt.service_account import FRESH_SECONDS, NoServiceAccount, ServiceAccount

HERE = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def files(tmp_path: Path) -> PodFiles:
    found, _ = certificate(tmp_path / "tls", "DNS:one")
    return PodFiles(tmp_path / "account", token="one", authority=found, namespace="lab\n")


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("10.96.0.1", "443", "https://10.96.0.1:443"),
        ("fd00::1", "6443", "https://[fd00::1]:6443"),
        ("[fd00::1]", "6443", "https://[fd00::1]:6443"),
        ("kubernetes.default.svc", "", "https://kubernetes.default.svc:443"),
    ],
)
def test_the_address_may_be_of_any_kind(files: PodFiles, host: str, port: str, url: str) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    assert ServiceAccount(files.folder, environment).server == url


def test_a_token_that_was_replaced_is_said_soon_and_one_that_is_away_is_not_missed(files: PodFiles) -> None:
    clock = Clock()
    account = ServiceAccount(files.folder, HERE, clock)
    assert (account.authorization, account.namespace) == ("Bearer one", "lab")
    files.renew_token("two")
    assert account.authorization == "Bearer one"
    clock.now += FRESH_SECONDS
    assert account.authorization == "Bearer two"
    for content in ("", "\n"):
        files.write("token", content)
        clock.now += FRESH_SECONDS
        assert account.authorization == "Bearer two"
    (files.folder / "token").unlink()
    clock.now += FRESH_SECONDS
    assert account.authorization == "Bearer two"


def test_an_authority_that_takes_the_old_ones_place_is_trusted(files: PodFiles, tmp_path: Path) -> None:
    clock = Clock()
    account = ServiceAccount(files.folder, HERE, clock)
    context = ssl.create_default_context(cafile=str(account.authority))
    other, _ = certificate(tmp_path / "other", "DNS:two")
    files.write("ca.crt", "half a fi")
    clock.now += FRESH_SECONDS
    account.renew(context)
    assert len(context.get_ca_certs()) == 1
    files.write("ca.crt", other.read_text())
    clock.now += FRESH_SECONDS
    account.renew(context)
    assert len(context.get_ca_certs()) == 2


@pytest.mark.parametrize("name", ["token", "ca.crt"])
def test_an_account_without_one_of_its_files_is_none(files: PodFiles, name: str) -> None:
    files.write(name, "\n")
    with pytest.raises(NoServiceAccount, match=name):
        ServiceAccount(files.folder, HERE)


@pytest.mark.skipif(why_no_pod() is not None, reason=why_no_pod() or "")
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "or a kubeconfig with --kubeconfig"),
        ({"HOME": "/nonexistent"}, "or a kubeconfig with --kubeconfig"),
        (
            {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"},
            "this pod's cluster cannot be reached",
        ),
        ({"KUBERNETES_SERVICE_HOST": "127.0.0.1", "HTTPS_PROXY": "http://127.0.0.1:1"}, "at https://127.0.0.1:443"),
    ],
    ids=["no environment", "a home that is not there", "its own account", "a proxy, which is not asked"],
)
def test_the_command_says_a_sentence_in_a_pod(files: PodFiles, environment: dict[str, str], said: str) -> None:
    words = in_a_pod(files, [sys.executable, "-m", "costopt.cli", "status", "tiny"], **environment)
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
