"""The images of a real node, made without a Docker engine and kept by content.

`python -m e2e.images [operator] [trainer] [full-trainer]` (with `tests` on the path) builds what is missing.

    base          Debian with Python, which stands for the FROM of our Dockerfiles; about two minutes, once
    operator      images/operator.Dockerfile as it stands
    trainer       images/trainer.Dockerfile without its dependencies: the node brings those (see node_files.py), so that
                  a change of ours does not move gigabytes
    full-trainer  images/trainer.Dockerfile as it stands, with torch: `make images`

An archive is named after everything it is made of, so nothing is built twice and nothing stale is used.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.build import ROOT, CannotBuildError, build_binaries, node_programs

BASE_NAME = "python:3.11-slim-bookworm"
"""What our Dockerfiles are made from; found locally, it is not pulled."""
BASE_PACKAGES = "ca-certificates,python3,python3-venv,python3-pip,python3-dev"
"""python3-dev as in the official Python images: torch's compiler needs Python.h."""
KEPT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
SOURCES = ("pyproject.toml", "README.md", "costopt", "operator", "trainer")
OPERATOR_IMAGE = "costopt-operator:0.1.0"
TRAINER_IMAGE = "costopt-trainer:0.1.0"
PAUSE_IMAGE = "costopt-pause:0.1.0"
NO_DEPENDENCIES = ("--build-arg", "DEPENDENCIES=none")


def cache_folder() -> Path:
    """Where everything built is."""
    return Path(os.environ.get("COSTOPT_CACHE") or ROOT / ".cache") / "e2e"


def find_images() -> dict[str, Path] | None:
    """The archives a node is started with, by image name; None if one is missing. Builds nothing."""
    archives = {
        PAUSE_IMAGE: _archive("pause", _pause_inputs()),
        OPERATOR_IMAGE: _archive("operator", _operator_inputs()),
        TRAINER_IMAGE: _archive("trainer", _trainer_inputs(NO_DEPENDENCIES)),
    }
    return archives if all(path.exists() for path in archives.values()) else None


def build_images() -> dict[str, Path]:
    """The archives a node is started with, after building what is missing."""
    with _locked():
        archives = {PAUSE_IMAGE: _archive("pause", _pause_inputs())}
        if not archives[PAUSE_IMAGE].exists():
            _build_pause(archives[PAUSE_IMAGE])
        archives[OPERATOR_IMAGE] = _archive("operator", _operator_inputs())
        if not archives[OPERATOR_IMAGE].exists():
            _build(ROOT / "images" / "operator.Dockerfile", OPERATOR_IMAGE, archives[OPERATOR_IMAGE])
        archives[TRAINER_IMAGE] = _archive("trainer", _trainer_inputs(NO_DEPENDENCIES))
        if not archives[TRAINER_IMAGE].exists():
            _build(ROOT / "images" / "trainer.Dockerfile", TRAINER_IMAGE, archives[TRAINER_IMAGE], *NO_DEPENDENCIES)
        return archives


def build_full_trainer(*arguments: str) -> Path:
    """The archive of images/trainer.Dockerfile with all that it depends on; `arguments` are build arguments."""
    with _locked():
        archive = _archive("full-trainer", _trainer_inputs(arguments))
        if not archive.exists():
            _build(ROOT / "images" / "trainer.Dockerfile", TRAINER_IMAGE, archive, *arguments)
        return archive


def _archive(name: str, inputs: Iterable[bytes]) -> Path:
    digest = hashlib.sha256()
    for part in inputs:
        digest.update(hashlib.sha256(part).digest())
    return cache_folder() / "images" / f"{name}-{digest.hexdigest()[:12]}.tar"


def _base_inputs() -> Iterator[bytes]:
    yield f"{BASE_NAME} {BASE_PACKAGES} {KEPT_OUT}".encode()
    yield from (path.read_bytes() for path in _certificates())


def _pause_inputs() -> Iterator[bytes]:
    module = node_programs()["pause"].module
    yield from (path.read_bytes() for path in sorted((module / "pause").glob("*.go")))


def _operator_inputs() -> Iterator[bytes]:
    yield from _base_inputs()
    yield (ROOT / "images" / "operator.Dockerfile").read_bytes()
    yield from _source_inputs()


def _trainer_inputs(arguments: tuple[str, ...]) -> Iterator[bytes]:
    yield from _base_inputs()
    yield " ".join(arguments).encode()
    yield from (path.read_bytes() for path in sorted((ROOT / "images").glob("*")) if path.is_file())
    yield from _source_inputs()


def _source_inputs() -> Iterator[bytes]:
    for path in _source_files():
        yield str(path.relative_to(ROOT)).encode()
        yield path.read_bytes()


def _source_files() -> list[Path]:
    found = [ROOT / name for name in SOURCES if (ROOT / name).is_file()]
    for name in SOURCES:
        found += [path for path in (ROOT / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(found)


def _build_pause(archive: Path) -> None:
    programs = build_binaries({"pause": node_programs()["pause"]})
    with _scratch() as scratch:
        shutil.copy(programs["pause"], scratch / "pause")
        recipe = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'
        (scratch / "Dockerfile").write_text(recipe, encoding="utf-8")
        _buildah("bud", "--tag", PAUSE_IMAGE, str(scratch))
    _export(PAUSE_IMAGE, archive)


def _build(dockerfile: Path, name: str, archive: Path, *arguments: str) -> None:
    """Build a Dockerfile of ours as it stands, from a copy of just the files that it may use."""
    _ensure_base()
    sys.stderr.write(f"building {name} from {dockerfile.relative_to(ROOT)}\n")
    with _scratch() as context:
        for path in (*_source_files(), *(ROOT / "images").glob("*")):
            if path.is_file():
                target = context / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
        options = ("--network", "host", "--pull-never", "--layers", "--file", str(context / "images" / dockerfile.name))
        _buildah("bud", *options, *arguments, "--tag", name, str(context))
    _export(name, archive)


def _export(name: str, archive: Path) -> None:
    """Write the archive whole. Uncompressed: it travels over no network, and compressing takes minutes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    kind = archive.name.rsplit("-", 1)[0]
    with _scratch(archive.parent) as scratch:
        _buildah("push", "--quiet", "--disable-compression", name, f"docker-archive:{scratch / 'image.tar'}:{name}")
        (scratch / "image.tar").replace(archive)
    for old in archive.parent.glob(f"{kind}-????????????.tar"):
        if old != archive:
            old.unlink()


def _ensure_base() -> None:
    """Debian with Python, the certificates and pip's settings of this machine, under the name in our Dockerfiles."""
    archive = _archive("base", _base_inputs())
    mark = cache_folder() / "buildah" / f".base-{archive.stem}"
    if mark.exists() and _has_image(BASE_NAME):
        return
    if not archive.exists():
        sys.stderr.write("building a base image of Debian with Python (two minutes)\n")
        archive.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(archive.parent) as scratch:
            command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={BASE_PACKAGES}"]
            command += [f"--dpkgopt=path-exclude={pattern}" for pattern in KEPT_OUT]
            command += ["--aptopt=Acquire::Check-Valid-Until false", "bookworm", str(scratch / "root.tar")]
            # On another Debian or Ubuntu mmdebstrap's own list would do; on this one the machine's works.
            sources = Path("/etc/apt/sources.list.d/debian.sources")
            _run([*command, *([str(sources)] if sources.exists() else [])])
            (scratch / "root.tar").replace(archive)
    container = _buildah("from", "scratch").strip()
    _buildah("add", "--quiet", container, str(archive), "/")
    with _scratch() as scratch:
        (scratch / "pip.conf").write_text(_pip_settings(), encoding="utf-8")
        _buildah("copy", "--quiet", container, str(scratch / "pip.conf"), "/etc/pip.conf")
    for path in _certificates():
        _buildah("copy", "--quiet", container, str(path), "/etc/ssl/certs/ca-certificates.crt")
    _buildah("run", container, "--", "ln", "-s", "/usr/bin/python3", "/usr/local/bin/python")
    path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    _buildah("config", "--env", path, "--cmd", "python3", container)
    _buildah("commit", "--quiet", "--rm", container, BASE_NAME)
    mark.write_text("", encoding="utf-8")


def _certificates() -> list[Path]:
    """The authorities that this machine trusts, where it says so: its way to the package registry may need them."""
    given = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    return [Path(given)] if Path(given).exists() else []


def _pip_settings() -> str:
    """pip's settings of this machine that name an index, so that a build finds packages where the machine does."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    lines = ["[global]"]
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        if name.split(".")[-1] in ("index-url", "extra-index-url", "trusted-host", "proxy"):
            lines.append(f"{name.split('.')[-1]} = {value.strip(chr(39))}")
    return "\n".join(lines) + "\n"


def _has_image(name: str) -> bool:
    done = subprocess.run(_command("inspect", "--type", "image", name), capture_output=True, env=_env(), check=False)
    return done.returncode == 0


def _command(*words: str) -> list[str]:
    storage = cache_folder() / "buildah"
    return ["buildah", "--root", str(storage / "storage"), "--runroot", str(storage / "run"), *words]


def _env() -> Mapping[str, str]:
    # chroot: no runtime, no cgroups and no network of its own is needed to run the commands of a build.
    return {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}


def _buildah(*words: str) -> str:
    (cache_folder() / "buildah").mkdir(parents=True, exist_ok=True)
    return _run(_command(*words))


def _run(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        raise CannotBuildError(f"{command[0]} is missing; tests/e2e/packages.sh installs it")
    done = subprocess.run(command, capture_output=True, text=True, env=_env(), check=False)
    if done.returncode != 0:
        words = " ".join(command[:8])
        raise CannotBuildError(f"{words} ... failed:\n{(done.stdout + done.stderr).strip()[-4000:]}")
    return done.stdout


@contextmanager
def _scratch(inside: Path | None = None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="costopt-image-", dir=inside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked() -> Iterator[None]:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build what a node needs; with `full-trainer` and build arguments, the real trainer's image."""
    try:
        if sys.argv[1:2] == ["full-trainer"]:
            sys.stdout.write(f"{build_full_trainer(*sys.argv[2:])}\n")
            return 0
        build_binaries(node_programs())
        for archive in build_images().values():
            sys.stdout.write(f"{archive}\n")
    except CannotBuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
