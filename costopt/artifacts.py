"""Artifacts on disk: folders with a manifest that names their files and the hash of each.

    read_manifest     a folder -> what its manifest says, or why that cannot be read
    parse_manifest    the same of a manifest's own text
    write_manifest    likewise back, whole; the last that is written of an artifact
    files_in          the files of a folder, hashed
    find_difference   what a folder has otherwise than its manifest says; find_misfit: by names and sizes alone
    is_artifact       whether a folder holds one
    folders_in        all artifacts of a storage, the trained model first, or copies of them

For the shells and the trainer, like `costopt.hostile`: whatever lies in a storage may be of anybody's making.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from costopt import names
from costopt.files import write_atomically
from costopt.hostile import MAX_JSON_BYTES, Hostile, open_file, parse_json, read_file, real_folder
from costopt.schema.artifact import FORMATS, MAX_FILES, ArtifactFile, ArtifactManifest
from costopt.schema.lenient_parse import read_known

MAX_DEPTH = 8
"""Folders in folders of one artifact."""
_BLOCK_BYTES = 2**22
_LONGEST_REASON = 300
Told = Callable[[int], object]
"""Hears how many more bytes were read."""


def read_manifest(folder: Path) -> ArtifactManifest:
    """What the manifest in `folder` says. Raises FileNotFoundError if there is none, and Hostile, whose text continues
    the name of the folder, if it cannot be read."""
    try:
        real_folder(folder)
        content = read_file(folder / names.MANIFEST_FILE, max_bytes=MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(str(folder / names.MANIFEST_FILE)) from None
    except OSError as error:
        raise Hostile(f"has a {names.MANIFEST_FILE} that cannot be read ({error.strerror})") from error
    except Hostile as error:
        raise Hostile(f"has a damaged {names.MANIFEST_FILE} ({error})") from error
    return parse_manifest(content)


def parse_manifest(content: bytes) -> ArtifactManifest:
    """What a manifest says. Raises Hostile as `read_manifest` does."""
    try:
        parse_json(content)  # pydantic alone knows no bound for depth and numbers
        return read_known(ArtifactManifest, content)
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in mistake["loc"]) or "document"
        why = f"{where}: {mistake['msg']}"[:_LONGEST_REASON]
        raise Hostile(f"has a damaged {names.MANIFEST_FILE} ({why})") from error
    except Hostile as error:
        raise Hostile(f"has a damaged {names.MANIFEST_FILE} ({error})") from error


def write_manifest(folder: Path, manifest: ArtifactManifest) -> None:
    """Write the manifest into `folder`, whose other files are all there. Raises OSError."""
    content = json.dumps(manifest.to_plain(), indent=2) + "\n"
    write_atomically(folder / names.MANIFEST_FILE, content.encode())


def files_in(folder: Path, known: Mapping[str, str] | None = None, on_piece: Told | None = None) -> list[ArtifactFile]:
    """The files below `folder`, but for its manifest, in order of their paths.

    `known`: hashes by path that need not be made again. Raises OSError, and Hostile if there is something else than
    plain files and folders, or too many.
    """
    found = []
    for path in sorted(_paths_below(folder)):
        with open_file(folder / path) as stream:
            size = os.fstat(stream.fileno()).st_size
        given = (known or {}).get(path)
        found.append(ArtifactFile(path=path, size_bytes=size, sha256=given or hash_of(folder / path, on_piece)))
    return found


def find_difference(folder: Path, manifest: ArtifactManifest, on_piece: Told | None = None) -> str | None:
    """The first file that is not what the manifest says, in words that continue the name of the folder; None: all are.

    Sizes and names are compared first, for hashing may take minutes. Raises OSError.
    """
    misfit = find_misfit(folder, manifest)
    if misfit is not None:
        return misfit
    for file in manifest.files:
        if hash_of(folder / file.path, on_piece) != file.sha256:
            return f"has another {file.path} than its {names.MANIFEST_FILE} says (of that size, with another content)"
    return None


def find_misfit(folder: Path, manifest: ArtifactManifest) -> str | None:
    """As `find_difference`, without reading the files: one that is lacking, not named, or of another size."""
    told = {file.path: file for file in manifest.files}
    try:
        there = set(_paths_below(folder))
    except Hostile as error:
        return str(error)
    for path in sorted(told.keys() - there):
        return f"lacks {path}, which its {names.MANIFEST_FILE} names"
    for path in sorted(there - told.keys()):
        return f"has {path}, which its {names.MANIFEST_FILE} does not name"
    for path, file in told.items():
        size = (folder / path).lstat().st_size
        if size != file.size_bytes:
            return f"has another {path} than its {names.MANIFEST_FILE} says ({size} bytes, not {file.size_bytes})"
    return None


def hash_of(path: Path, on_piece: Told | None = None) -> str:
    """SHA-256 of a plain file, hexadecimal. Raises OSError and Hostile."""
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            if on_piece is not None:
                on_piece(len(block))
    return digest.hexdigest()


def folders_in(place: Path) -> Iterator[Path]:
    """The folders of all artifacts in `place`: the trained model, its adapter, variants by name, then those that were
    rejected. A link is none.

    `place` is a job's storage, or one artifact, or a folder of copies, each with a manifest. Raises OSError, and
    Hostile if a link has the place of all of them.
    """
    if is_artifact(place):
        yield place
        return
    artifacts = place / names.ARTIFACTS_DIR
    if not os.path.lexists(artifacts):
        yield from (path for path in sorted(_folders(place)) if os.path.lexists(path / names.MANIFEST_FILE))
        return
    first = (names.MODEL_DIR, names.ADAPTER_DIR)
    inner = sorted(_folders(artifacts), key=lambda path: (path.name not in first, path.name == first[1], path.name))
    yield from (path for path in inner if path.name != names.REJECTED_DIR)
    yield from sorted(_folders(artifacts / names.REJECTED_DIR))


def is_artifact(folder: Path) -> bool:
    """Whether a manifest lies in it, or, without one, a model."""
    return any(os.path.lexists(folder / name) for name in (names.MANIFEST_FILE, *FORMATS))


def _folders(parent: Path) -> list[Path]:
    try:
        real_folder(parent)
        return [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _paths_below(folder: Path) -> Iterator[str]:
    """The files below `folder`, as paths with `/`. Raises Hostile as `files_in` does."""
    number = 0
    open_folders = [(folder, PurePosixPath())]
    while open_folders:
        here, path = open_folders.pop()
        for entry in os.scandir(here):
            below = path / entry.name
            number += 1
            if number > MAX_FILES or len(below.parts) > MAX_DEPTH:
                raise Hostile(f"must have at most {MAX_FILES} files in folders at most {MAX_DEPTH} deep")
            if entry.is_dir(follow_symlinks=False):
                open_folders.append((here / entry.name, below))
            elif not entry.is_file(follow_symlinks=False):
                raise Hostile(f"must hold plain files, and {below} is none")
            elif str(below) != names.MANIFEST_FILE:
                yield str(below)
