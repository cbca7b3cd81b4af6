"""Where a variant's folder goes once it is judged.

publish       puts a finished folder where its verdict wants it
remove_old    removes rejected variants that nobody has looked at for long
describe_variant    writes the manifest of a finished folder
"""

import time
from pathlib import Path

from costopt import names
from costopt.schema.compression import Variant
from costopt.schema.variant_report import VariantStatus
from costopt_trainer.compress.origin import Origin
from costopt_trainer.storage.folders import remove, replace_folder, storage_folder
from costopt_trainer.storage.manifests import describe, earlier_manifest, licence_in, lineage_of

KEPT_SECONDS = 7 * 86400.0
"""How long a rejected variant stays."""


def publish(folder: Path, name: str, *, accepted: bool) -> None:
    """Rename `folder`, which lies in the storage's artifacts, to the variant's name there if it is `accepted`, else
    below REJECTED_DIR; and remove what the variant was before under the other one. Raises OSError."""
    artifacts = folder.parent
    published, rejected = artifacts / name, artifacts / names.REJECTED_DIR / name
    if accepted:
        replace_folder(folder, published)
        remove(rejected)
        return
    storage_folder(rejected.parent)
    judged = rejected.with_name(f".{name}.judged")
    remove(judged)
    folder.rename(judged)
    replace_folder(judged, rejected)
    remove(published)


def remove_old(artifacts: Path, now: float | None = None) -> None:
    """Remove rejected variants that were made KEPT_SECONDS before `now` (None: this moment). Raises OSError."""
    now = time.time() if now is None else now
    rejected = artifacts / names.REJECTED_DIR
    if rejected.is_symlink() or not rejected.is_dir():
        return
    for folder in rejected.iterdir():
        if now - folder.lstat().st_mtime > KEPT_SECONDS:
            remove(folder)


def describe_variant(folder: Path, variant: Variant, origin: Origin, report: VariantStatus, *, job: str) -> None:
    """Write the manifest of `variant` into its `folder`, whose other files are all there. Raises OSError."""
    before = earlier_manifest(origin.folder)
    weights = [] if before is None else [file.sha256 for file in before.files if file.path.endswith(".safetensors")]
    known = {
        "checkpoint_step": None if before is None else before.lineage.checkpoint_step,
        "recipe": origin.recipe or (None if before is None else before.lineage.recipe),
        "steps": variant.steps,
        "model_sha256": weights,
        "data_fingerprint": origin.held_out.data.fingerprint,
    }
    lineage = lineage_of(job).model_copy(update=known)
    licence = licence_in(origin.folder) if before is None else before.licence
    describe(folder, variant.name, lineage, report=report, licence=licence)
