"""A process as in a pod: user 65532 without an entry in passwd, only the given environment, no writable folder, and a
service account below /var/run/secrets. Needs root and `unshare`, for its own mount namespace.

    account = PodFiles(folder, token="one", authority=ca)
    subprocess.Popen(in_a_pod(account, [sys.executable, "-m", "costopt_operator", "run"], KUBERNETES_SERVICE_HOST=...))
    account.renew_token("two")            # as the kubelet does: another file in the old one's place
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

USER = 65532
ROOT = Path(__file__).resolve().parents[2]
IMPORT_PATH = os.pathsep.join(str(ROOT / part) for part in ("", "operator", "trainer"))

_ENTER = r"""
mount -t tmpfs -o mode=755 none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount || exit 99
[ -z "$1" ] || mount --bind "$1" /run/secrets/kubernetes.io/serviceaccount || exit 99
[ -z "$2" ] || mount -t tmpfs -o mode=1777 none /tmp || exit 99
mount -o remount,ro,bind / || exit 99
shift 2
cd /
exec "$@"
"""
"""/var/run is /run. The user may read everything (the interpreter may be below /root), and write nothing."""

_CAPABILITY = "-all,+dac_read_search"
_AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
_AS_USER += [f"--{kind}={_CAPABILITY}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]


class PodFiles:
    """The files of a service account, which a kubelet keeps up to date."""

    def __init__(self, folder: Path, *, token: str, authority: Path, namespace: str = "costopt-system") -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        self.renew_token(token)
        self.write("ca.crt", authority.read_text())
        self.write("namespace", namespace)

    def renew_token(self, token: str) -> None:
        """Replace the token; with a line feed at its end, as tools write it."""
        self.write("token", f"{token}\n")

    def write(self, name: str, content: str) -> None:
        """Replace a file."""
        beside = self.folder / f"..{name}"
        beside.write_text(content)
        beside.chmod(0o644)
        beside.replace(self.folder / name)


def in_a_pod(account: PodFiles | None, words: Sequence[str], *, scratch: bool = False, **environment: str) -> list[str]:
    """The command line that runs `words` in a pod; `scratch`: with a writable /tmp."""
    if scratch and Path("/tmp") in Path(sys.executable).parents:
        pytest.skip("a pod's own /tmp would hide the Python that runs this, which is below /tmp")
    variables = [f"{name}={value}" for name, value in {"PYTHONPATH": IMPORT_PATH, **environment}.items()]
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
    places = [str(account.folder) if account else "", "yes" if scratch else ""]
    return [*enter, *places, *_AS_USER, "env", "-i", *variables, *words]


@cache
def why_no_pod() -> str | None:
    """Why no process can run as in a pod here; None: it can."""
    if os.getuid() != 0:
        return "only root can make a mount namespace"
    lacking = [name for name in ("unshare", "setpriv", "openssl") if shutil.which(name) is None]
    if lacking:
        return f"{', '.join(lacking)} must be on the path"
    ask = "import os, sys; sys.exit(os.getuid() != 65532 or 'HOME' in os.environ or os.access('/', os.W_OK))"
    words = in_a_pod(None, [sys.executable, "-c", ask])
    tried = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    return None if tried.returncode == 0 else f"no mount namespace can be made here: {tried.stderr.strip()}"


def certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """A certificate for these names (`IP:127.0.0.1`) that is its own authority, and its key."""
    folder.mkdir(exist_ok=True)
    found, key = folder / "server.crt", folder / "server.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "30", "-subj", "/CN=kubernetes", "-addext", f"subjectAltName={','.join(names)}"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(found)], capture_output=True, check=True)
    return found, key
