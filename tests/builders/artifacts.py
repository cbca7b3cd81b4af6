"""Artifacts on disk with a manifest, without a training."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builders.local import RECIPE
from costopt.artifacts import files_in, write_manifest
from costopt.schema.artifact import ArtifactManifest, Lineage, Machine
from costopt.schema.recipe import Recipe
from costopt.schema.variant_report import Measurement, VariantFault, VariantStatus

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def measured(size_bytes: int, latency: int, loss: str, **more: Any) -> Measurement:
    return Measurement(
        size_bytes=size_bytes,
        parameters=1000,
        nonzero_permille=995,
        latency_microseconds=latency,
        validation_loss=loss,
        engine="TorchEager",
        **more,
    )


def variant_report(name: str = "int8", *, faults: tuple[VariantFault, ...] = (), **changed: Any) -> VariantStatus:
    """A variant that is four times smaller and twice as fast as its model."""
    folder = f"artifacts/rejected/{name}" if faults else f"artifacts/{name}"
    return VariantStatus(
        **{
            "name": name,
            "measured": measured(1_000_000, 500, "2.01"),
            "baseline": measured(4_000_000, 1000, "2.00"),
            "size_ratio": "4.0",
            "speedup": "2.0",
            "validation_loss_increase": "0.01",
            "artifact": folder,
            "reloaded": True,
            "faults": list(faults),
            "verdict": "Rejected" if faults else "Accepted",
            **changed,
        }
    )


def slower() -> VariantFault:
    return VariantFault(reason="Slower", message="it is 0.5x as fast as the model, and must be at least 0.9x")


def write_artifact(
    folder: Path, report: VariantStatus | None = None, *, made_of: ArtifactManifest | None = None, **files: bytes
) -> ArtifactManifest:
    """An artifact with these files (`_` for `.`; weights and a configuration if none are named) and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {name.replace("_", "."): content for name, content in files.items()}
    for name, content in (named or {"model.safetensors": b"w" * 1000, "config.json": b'{"a": 1}'}).items():
        (folder / name).write_bytes(content)
    source = [] if made_of is None else [file.sha256 for file in made_of.files if file.path == "model.safetensors"]
    manifest = ArtifactManifest(
        name=folder.name,
        created=NOON,
        files=files_in(folder),
        lineage=Lineage(job="tiny", checkpoint_step=8, recipe=Recipe.model_validate(RECIPE), model_sha256=source),
        report=report,
        validation_loss=None if report else "2.0",
        machine=Machine(processor="A processor", threads=2, versions={"python": "3.11"}),
    )
    write_manifest(folder, manifest)
    return manifest


def write_artifacts(storage: Path) -> Path:
    """A trained model, an accepted variant and a rejected one; returns the storage."""
    model = write_artifact(storage / "artifacts/model")
    write_artifact(storage / "artifacts/int8", variant_report(), made_of=model)
    write_artifact(storage / "artifacts/rejected/thin", variant_report("thin", faults=(slower(),)), made_of=model)
    return storage
