"""Copies of artifacts elsewhere: in a folder of this machine, or behind a URL by the library fsspec.

    copy_artifact    one artifact, whole or not at all: its manifest is written last

What is copied is hashed on its way, so that a copy with a manifest is what the manifest says; what `--verify` would
name is refused, also a file that the manifest does not name. Credentials come from the
environment, as the library of each kind of URL reads them. Words of a library are not shown, for they may hold one.
"""

import contextlib
import hashlib
import importlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from costopt import names
from costopt.artifacts import find_misfit, parse_manifest, read_manifest
from costopt.files import sync_folder
from costopt.hostile import Hostile, open_file, read_file
from costopt.refused import Refused
from costopt.schema.artifact import ArtifactFile, ArtifactManifest
from costopt.schema.data_places import has_secret

_BLOCK_BYTES = 2**22
_MAX_MANIFEST_BYTES = 2**22


def copy_artifact(folder: Path, manifest: ArtifactManifest, place: str) -> str:
    """Copy the artifact in `folder` to a folder of its name in `place`, a path or a URL, in place of an older copy of
    the same job's; returns where it is. Raises Refused with a sentence."""
    check_place(place)
    _refuse_misfit(folder, manifest)
    content = read_file(folder / names.MANIFEST_FILE, max_bytes=_MAX_MANIFEST_BYTES)
    if "://" not in place:
        return str(_copied_here(folder, manifest, content, Path(place).absolute() / manifest.name))
    return _copied_away(folder, manifest, content, place.rstrip("/"))


def check_place(place: str) -> None:
    """Raise Refused for a URL that nothing should be copied to."""
    if has_secret(place) or "::" in place:
        told = place.partition("://")[0]
        raise Refused(
            f"--copy-to must be a plain {told}:// URL without a password, token or signature; give credentials in the "
            "environment"
        )
    if not place:
        raise Refused("--copy-to must name a folder or a URL such as s3://bucket/folder")


def _refuse_misfit(folder: Path, manifest: ArtifactManifest) -> None:
    try:
        misfit = find_misfit(folder, manifest)
    except OSError as error:
        raise Refused(f"{error.filename} cannot be read ({error.strerror}), so nothing was copied") from None
    if misfit is not None:
        raise Refused(f"{folder} {misfit}, so it was not copied; put that right, or have it made anew")


def _copied_here(folder: Path, manifest: ArtifactManifest, content: bytes, target: Path) -> Path:
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        _refuse_others(target, folder, manifest)
        partial.mkdir(parents=True)
        for file in manifest.files:
            path = partial / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                _send(folder, file, stream)
        (partial / names.MANIFEST_FILE).write_bytes(content)
        if target.exists():
            old = target.rename(partial.with_suffix(".replaced"))
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise Refused(f"{target} cannot be written ({error.strerror}); name a folder that you may write to") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _refuse_others(target: Path, folder: Path, manifest: ArtifactManifest) -> None:
    """Raise Refused if what is there is no copy, another job's, or the artifact itself."""
    if not target.is_symlink() and not target.exists():
        return
    if target.resolve() == folder.resolve():
        raise Refused(f"{target} is the artifact itself; name another folder")
    try:
        earlier = read_manifest(target)
    except (FileNotFoundError, Hostile):
        raise Refused(
            f"{target} is there already and is no copy of an artifact; remove it, or name another folder"
        ) from None
    _refuse_another_job(str(target), earlier, manifest)


def _refuse_another_job(where: str, earlier: ArtifactManifest, manifest: ArtifactManifest) -> None:
    theirs, ours = earlier.lineage.job, manifest.lineage.job
    if theirs != ours:
        raise Refused(
            f"{where} is there already and is of job {theirs or 'without a name'}, not {ours or 'without a name'}; "
            "name another place, such as a folder for each job"
        )


def _copied_away(folder: Path, manifest: ArtifactManifest, content: bytes, url: str) -> str:
    with _in_our_words(url):
        core = importlib.import_module("fsspec.core")
        system, root = core.url_to_fs(url)
        base = f"{root.rstrip('/')}/{manifest.name}"
        mark = f"{base}/{names.MANIFEST_FILE}"
        system.invalidate_cache()
        earlier = set(system.find(base)) if system.exists(base) else set()
        if earlier and not any(path.rstrip("/").endswith(f"/{names.MANIFEST_FILE}") for path in earlier):
            raise Refused(f"{url}/{manifest.name} is there already and is no copy of an artifact; name another place")
        if system.exists(mark):
            try:
                copied = parse_manifest(system.cat_file(mark))
            except Hostile as error:
                raise Refused(f"{url}/{manifest.name} {error}; remove it, or name another place") from None
            _refuse_another_job(f"{url}/{manifest.name}", copied, manifest)
            system.rm_file(mark)  # from now on there is no copy, until the new one is whole
        written: list[str] = []
        try:
            for file in manifest.files:
                path = f"{base}/{file.path}"
                system.makedirs(path.rpartition("/")[0], exist_ok=True)
                written.append(path)
                with system.open(path, "wb") as stream:
                    _send(folder, file, stream)
            system.pipe_file(mark, content)
        except BaseException:
            _remove(system, [*written, mark])
            raise
        kept = {system._strip_protocol(path) for path in (*written, mark)}  # noqa: SLF001  its own word for a name
        _remove(system, sorted(earlier - kept))
    return f"{url}/{manifest.name}"


def _remove(system: Any, paths: list[str]) -> None:
    for path in paths:
        with contextlib.suppress(Exception):
            system.rm_file(path)


def _send(folder: Path, file: ArtifactFile, stream: IO[bytes]) -> None:
    """Write the file of the artifact to `stream`. Raises Refused if it is not what the manifest says."""
    digest, size = hashlib.sha256(), 0
    try:
        source = open_file(folder / file.path)
    except (OSError, Hostile) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Refused(f"{folder}/{file.path} cannot be read ({why}), so nothing was copied") from None
    with source:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            stream.write(block)
    if (size, digest.hexdigest()) != (file.size_bytes, file.sha256):
        raise Refused(
            f"{folder} has another {file.path} than its {names.MANIFEST_FILE} says, so it was not copied; have it made "
            "anew"
        )


@contextlib.contextmanager
def _in_our_words(url: str) -> Iterator[None]:
    scheme = url.partition("://")[0]
    try:
        yield
    except Refused:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0] or _package_of(scheme)
        extra = "costopt[data]" if package == "fsspec" else package
        raise Refused(
            f"{scheme}:// needs the package {package}, which is not installed: pip install '{extra}'"
        ) from None
    except (NotImplementedError, ValueError):
        raise Refused(
            f"{url} must be a URL of a kind that fsspec can write to, such as s3://, gs:// or az://"
        ) from None
    except Exception as error:  # noqa: BLE001  each library has errors of its own
        raise Refused(
            f"{url} cannot be written ({type(error).__name__}); it must be a place that the credentials in the "
            "environment may write to"
        ) from None


def _package_of(scheme: str) -> str:
    registry = importlib.import_module("fsspec.registry")
    known = registry.known_implementations.get(scheme, {})
    return str(known.get("class", scheme)).partition(".")[0]
