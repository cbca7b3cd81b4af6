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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / "ca.crt"
        self.serving_certificate = folder / "serving.crt"
        self.serving_key = folder / "serving.key"
        self.service_account_key = folder / "service-account.key"
        self.service_account_public_key = folder / "service-account.pub"
        self.tokens = folder / "tokens.csv"

    def create(self) -> None:
        """An authority of ten years, one serving certificate for loopback, the service account key pair, tokens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        authority_key = self.folder / "ca.key"
        for key in (authority_key, self.serving_key):
            _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        subject = ("-subj", "/CN=costopt-test-authority")
        _openssl("req", "-x509", "-new", "-key", authority_key, *subject, "-days", "3650", "-out", self.ca)
        request, extensions = self.folder / "serving.csr", self.folder / "serving.ext"
        _openssl("req", "-new", "-key", self.serving_key, "-subj", "/CN=kube-apiserver", "-out", request)
        names = "DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n", encoding="utf-8")
        signing = ("-CA", self.ca, "-CAkey", authority_key, "-CAcreateserial", "-days", "3650")
        _openssl("x509", "-req", "-in", request, *signing, "-extfile", extensions, "-out", self.serving_certificate)
        _openssl("genrsa", "-out", self.service_account_key, "2048")
        _openssl("rsa", "-in", self.service_account_key, "-pubout", "-out", self.service_account_public_key)
        self._write_tokens()

    def _write_tokens(self) -> None:
        lines = []
        for name, (user, group) in IDENTITIES.items():
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
