"""Certificate authorities and server certificates, made by openssl."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

LONG_AGO = ("20200101000000Z", "20200201000000Z")
FAR_AHEAD = ("21200101000000Z", "21200201000000Z")

_CONFIGURATION = """
[ca]
default_ca = here
[here]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in files."""

    file: Path
    key: Path

    def for_server(self, clients: Path | None = None) -> ssl.SSLContext:
        """TLS context of a server with this certificate; `clients`: it requires client certificates of these."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        return context


class Authority:
    """Signs certificates; its own is `certificate.file`."""

    def __init__(self, folder: Path, name: str = "an authority") -> None:
        folder.mkdir()
        self._folder = folder
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "openssl.cnf").write_text(_CONFIGURATION.format(folder=folder))
        self.certificate = self_signed(folder, "authority", f"/CN={name}")

    def signed(self, names: str, *, valid: tuple[str, str] | None = None) -> Certificate:
        """A certificate for `names` (`IP:127.0.0.1`, `DNS:example.org`), `valid` from and until; default: now."""
        stem = f"server-{len(list(self._folder.glob('server-*.key')))}"
        key, request, found, extra = (self._folder / f"{stem}.{kind}" for kind in ("key", "csr", "crt", "ext"))
        _make_key(key)
        extra.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", "-new", "-key", key, "-subj", "/CN=server", "-out", request)
        ours = self.certificate
        dates = ("-days", "2") if valid is None else ("-startdate", valid[0], "-enddate", valid[1])
        signing = ("-config", self._folder / "openssl.cnf", "-cert", ours.file, "-keyfile", ours.key)
        _openssl("ca", "-batch", "-notext", *signing, *dates, "-extfile", extra, "-in", request, "-out", found)
        return Certificate(found, key)


def self_signed(folder: Path, stem: str, subject: str, *extra: str) -> Certificate:
    """A self-signed certificate."""
    key, found = folder / f"{stem}.key", folder / f"{stem}.crt"
    _make_key(key)
    _openssl("req", "-x509", "-new", "-key", key, "-subj", subject, "-days", "2", *extra, "-out", found)
    return Certificate(found, key)


def _make_key(path: Path) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
