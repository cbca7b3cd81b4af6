"""Artifacts as rows: from a folder, or from what a status says of variants.

Found             one artifact, and what is known of it
found_in          all in a folder
of_status         those that a status tells of
artifacts_table   them, in 80 columns
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group

from costopt.artifacts import folders_in, read_manifest
from costopt.cli.tables import table
from costopt.cli.variants import size
from costopt.hostile import Hostile, open_file
from costopt.local.models import read_theirs
from costopt.names import MODEL_DIR, REJECTED_DIR, REPORT_FILE
from costopt.refused import Refused
from costopt.schema.artifact import ArtifactManifest, formats_of
from costopt.schema.status import JobStatus
from costopt.schema.variant_report import Measurement, VariantStatus


@dataclass(frozen=True)
class Found:
    """An artifact."""

    name: str
    folder: Path
    formats: tuple[str, ...] = ()
    size_bytes: int = 0
    manifest: ArtifactManifest | None = None
    """None: an earlier version has made it, or it is damaged."""
    report: VariantStatus | None = None
    """None of a trained model."""
    beside: VariantStatus | None = None
    """Of a trained model: the report of a variant, whose baseline it is."""
    damage: str | None = None
    """What is wrong with its manifest, in words that continue the name of the folder."""

    @property
    def is_rejected(self) -> bool:
        """Whether it lies among the rejected ones."""
        return self.folder.parent.name == REJECTED_DIR

    def to_plain(self) -> dict[str, Any]:
        """For programs."""
        plain = {
            "name": self.name,
            "folder": str(self.folder),
            "formats": list(self.formats),
            "sizeBytes": self.size_bytes,
            "verdict": _verdict(self) or None,
            "damage": self.damage,
        }
        return {**plain, "manifest": None if self.manifest is None else self.manifest.to_plain()}


def found_in(place: Path) -> list[Found]:
    """All artifacts in `place` (see `folders_in`). Raises Refused if that cannot be read."""
    try:
        found = [_read(folder) for folder in folders_in(place)]
    except OSError as error:
        raise Refused(f"{error.filename} cannot be read ({error.strerror}); it must be a folder you may read") from None
    except Hostile as error:
        raise Refused(str(error)) from None
    return [replace(each, beside=_made_of(each, found)) if each.name == MODEL_DIR else each for each in found]


def _made_of(model: Found, others: Sequence[Found]) -> VariantStatus | None:
    """The report of a variant of this very model: in a folder of copies another job's may lie beside it."""
    weights = set() if model.manifest is None else {file.sha256 for file in model.manifest.files}
    for other in others:
        source = set() if other.manifest is None else set(other.manifest.lineage.model_sha256)
        if other.report is not None and source <= weights:
            return other.report
    return None


def of_status(status: JobStatus) -> list[Found]:
    """Variants that a status tells of, and the model beside them."""
    variants = [
        Found(report.name, Path(report.artifact), size_bytes=report.measured.size_bytes, report=report)
        for report in status.variants
    ]
    if not variants:
        return []
    first = status.variants[0]
    model = Found(MODEL_DIR, Path("artifacts", MODEL_DIR), size_bytes=first.baseline.size_bytes, beside=first)
    return [model, *variants]


def refuse_damaged(found: Found) -> None:
    """Raise Refused for an artifact whose manifest cannot be read."""
    if found.damage is not None:
        raise Refused(f"{found.folder} {found.damage}; have it made anew, or restore it from a copy")


def artifacts_table(found: Sequence[Found]) -> Group:
    """A row for each."""
    rows = [
        (
            each.name,
            ", ".join(each.formats),
            size(each.size_bytes),
            _verdict(each),
            _quality(each),
            _speed(each),
        )
        for each in found
    ]
    return table("Artifacts", ("name", "format", "size", "verdict", "quality", "speed"), rows, left=2)


def _read(folder: Path) -> Found:
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        return _without_manifest(folder)
    except Hostile as error:
        return replace(_without_manifest(folder), damage=str(error))
    return Found(
        manifest.name,
        folder,
        formats=tuple(manifest.formats),
        size_bytes=manifest.size_bytes,
        manifest=manifest,
        report=manifest.report,
    )


def _without_manifest(folder: Path) -> Found:
    sizes: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        try:
            with open_file(path) as stream:
                sizes[path.name] = stream.seek(0, 2)
        except (OSError, Hostile):
            continue
    report = read_theirs(folder / REPORT_FILE, VariantStatus)
    formats = formats_of(sizes, by_a_program=False)
    return Found(folder.name, folder, tuple(formats), sum(sizes.values()), report=report)


def _verdict(found: Found) -> str:
    if found.damage is not None:
        return "Damaged"
    return "" if found.report is None else found.report.verdict or ""


def _measured(found: Found) -> Measurement | None:
    if found.report is not None:
        return found.report.measured
    return None if found.beside is None else found.beside.baseline


def _quality(found: Found) -> str:
    """Its accuracy, or of what is no classifier its loss."""
    measured = _measured(found)
    if measured is None:
        loss = None if found.manifest is None else found.manifest.validation_loss
        return "" if loss is None else f"loss {float(loss):.4f}"
    if measured.validation_accuracy_permille is not None:
        return f"accuracy {measured.validation_accuracy_permille / 10:.1f}%"
    return f"loss {float(measured.validation_loss):.4f}"


def _speed(found: Found) -> str:
    if found.report is not None:
        return f"{float(found.report.speedup):.2f}x"
    return "" if found.beside is None else "1.00x"
