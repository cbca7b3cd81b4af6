"""Writes what is generated from the models: the CRDs and docs/reference.md (`make generate`)."""

from pathlib import Path

from costopt.cli.crd import crds_as_yaml
from costopt.schema.reference import reference

NOTICE = "# Generated from costopt/schema by `make generate`; edit the models there.\n"


def main() -> None:
    """Write the generated files below the current folder, which is the project's root."""
    crds = Path("manifests/crds/costopt.dev.yaml")
    crds.parent.mkdir(parents=True, exist_ok=True)
    crds.write_text(NOTICE + crds_as_yaml(), encoding="utf-8")
    Path("docs/reference.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
