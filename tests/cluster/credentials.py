"""Certificates, keys, tokens and kubeconfig files of one control plane, in its own folder."""

import json
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

IDENTITIES: Mapping[str, tuple[str, str]] = {
    "admin": ("test-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kwok": ("kwok", "system:masters"),
}
"""Who may come with a static token: file name -> user name and group. Everyone else needs RBAC and a token request."""


class Credentials:
    """What the components need to trust each other. Written by `create`, read by path."""

    def __init__(self, folder: Path, identities: Mapping[str, tuple[str, str]] = IDENTITIES) -> None:
        self.folder = folder
        self.identities = identities
        self.ca = folder / "ca.crt"
        self.serving_certificate = folder / "serving.crt"
        self.serving_key = folder / "serving.key"
        self.service_account_key = folder / "service-account.key"
        self.service_account_public_key = folder / "service-account.pub"
        self.kubelet_client_certificate = folder / "kubelet-client.crt"
        self.kubelet_client_key = folder / "kubelet-client.key"
        self.tokens = folder / "tokens.csv"

    def create(self, *addresses: str) -> None:
        """An authority of ten years, one serving certificate for loopback and `addresses`, keys of the service
        accounts, tokens, and the certificate with which the API server comes to a kubelet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        authority_key = self.folder / "ca.key"
        for key in (authority_key, self.serving_key, self.kubelet_client_key):
            _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        subject = ("-subj", "/CN=costopt-test-authority")
        _openssl("req", "-x509", "-new", "-key", authority_key, *subject, "-days", "3650", "-out", self.ca)
        names = ",".join(
            ["DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1", *(f"IP:{each}" for each in addresses)]
        )
        serving = f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n"
        self._sign("/CN=kube-apiserver", serving, self.serving_key, self.serving_certificate)
        kubelets_client = "/O=system:masters/CN=kube-apiserver-kubelet-client"
        client = (self.kubelet_client_key, self.kubelet_client_certificate)
        self._sign(kubelets_client, "extendedKeyUsage=clientAuth\n", *client)
        self.create_service_account_key()
        self._write_tokens()

    def create_service_account_key(self) -> None:
        """The key pair of service accounts' tokens; a new one in place of one that is there."""
        _openssl("genrsa", "-out", self.service_account_key, "2048")
        _openssl("rsa", "-in", self.service_account_key, "-pubout", "-out", self.service_account_public_key)

    def _sign(self, subject: str, extensions: str, key: Path, certificate: Path) -> None:
        request, extra = key.with_suffix(".csr"), key.with_suffix(".ext")
        extra.write_text(extensions, encoding="utf-8")
        _openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
        signing = ("-CA", self.ca, "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-days", "3650")
        _openssl("x509", "-req", "-in", request, *signing, "-extfile", extra, "-out", certificate)

    def _write_tokens(self) -> None:
        lines = []
        for name, (user, group) in self.identities.items():
            token = secrets.token_hex(24)
            (self.folder / f"{name}.token").write_text(token, encoding="utf-8")
            lines.append(f'{token},{user},{user},"{group}"\n')
        self.tokens.write_text("".join(lines), encoding="utf-8")

    def token(self, name: str) -> str:
        """The static token of one of IDENTITIES."""
        return (self.folder / f"{name}.token").read_text(encoding="utf-8")

    def write_kubeconfig(self, name: str, url: str, token: str, namespace: str = "default") -> Path:
        """A kubeconfig file with one context, called `test`; JSON, which is YAML too."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        path.chmod(0o600)
        return path


def has_openssl() -> bool:
    """Whether certificates can be made here."""
    return shutil.which("openssl") is not None


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {words[0]} failed: {done.stderr.strip()}")
