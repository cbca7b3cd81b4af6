"""The manifest of an artifact, written when all else of its folder is there.

describe        writes it
Describe        how a writer of a folder is told to: called with the folder before that is renamed into place
licence_in      what a model's own folder says of its licence

Without torch, so that a program that only hands a model over need not import it.
"""

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from costopt import names
from costopt.artifacts import files_in, read_manifest, write_manifest
from costopt.hostile import Hostile, open_file, read_json
from costopt.schema.artifact import ArtifactManifest, Lineage
from costopt.schema.variant_report import VariantStatus
from costopt_trainer.errors import safe
from costopt_trainer.machine import machine_here

Describe = Callable[[Path, Mapping[str, str]], None]
"""Gets the folder, and hashes of its files that are known already, by name."""

_README_BYTES = 2**16
_LICENCE = re.compile(r"^licen[sc]e:[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9 .+()/_-]{0,120}?)[\"']?[ \t]*$", re.MULTILINE)


def describe(
    folder: Path,
    name: str,
    lineage: Lineage,
    *,
    known: Mapping[str, str] | None = None,
    report: VariantStatus | None = None,
    validation_loss: str | None = None,
    results: Mapping[str, str] | None = None,
    licence: str | None = None,
) -> ArtifactManifest:
    """Write the manifest of the artifact `name` into its finished `folder`; returns it.

    `known`: hashes of files that need not be made again. Raises OSError; and ValueError for a folder that no manifest
    can describe, such as one with a link in it.
    """
    (folder / names.MANIFEST_FILE).unlink(missing_ok=True)  # a copied folder may bring one of another
    manifest = ArtifactManifest(
        name=name,
        created=datetime.now(UTC),
        files=files_in(folder, known),
        lineage=lineage,
        report=report,
        validation_loss=validation_loss,
        results=dict(results or {}),
        machine=machine_here(),
        licence=licence,
    )
    write_manifest(folder, manifest)
    return manifest


def lineage_of(job: str) -> Lineage:
    """What is known of a model by its job alone: its name, if that is not empty, and the uid that a cluster gives."""
    return Lineage(job=job or None, job_uid=os.environ.get(names.ENV_JOB_UID) or None)


def licence_in(folder: Path | None) -> str | None:
    """The licence that the front matter of README.md in a model's folder names, or else its config.json; None: neither
    does. A list, or words that are no name, count as none."""
    if folder is None:
        return None
    try:
        with open_file((folder / "README.md").resolve()) as stream:
            head = stream.read(_README_BYTES).decode(errors="replace").replace("\r\n", "\n")
        front = re.match(r"---\n(.*?)\n---", head, re.DOTALL)
        if front is not None and (found := _LICENCE.search(front[1])) is not None:
            return found[1]
    except (OSError, Hostile):
        pass
    try:
        config = read_json((folder / "config.json").resolve())
    except (OSError, Hostile):
        return None
    said = config.get("license") if isinstance(config, dict) else None
    return safe(said)[:256] if isinstance(said, str) and said else None


def earlier_manifest(folder: Path) -> ArtifactManifest | None:
    """What the manifest of an artifact that something is made from says; None if it has none that can be read."""
    try:
        return read_manifest(folder)
    except (OSError, Hostile):
        return None
