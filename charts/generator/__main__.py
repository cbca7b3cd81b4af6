"""Writes what is generated around the chart: `python -m charts.generator [--check]`, from the project's root.

* charts/costopt/values.schema.json and README.md, from the comments in values.yaml
* charts/costopt/templates/crds, from manifests/crds
* manifests/install, from the rendered chart; only where there is helm, and left as it is where there is none
"""

import sys
from pathlib import Path

import yaml

from charts.generator.crd_templates import crd_templates
from charts.generator.plain_manifests import find_helm, plain_manifests
from charts.generator.readme import readme
from charts.generator.settings import read_settings
from charts.generator.values_schema import values_schema
from costopt.schema.kinds import PRICE_BOOK

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/costopt"


def chart_files() -> dict[Path, str]:
    """The chart's generated files."""
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    settings = read_settings((CHART / "values.yaml").read_text(encoding="utf-8"))
    crds = (ROOT / "manifests/crds/costopt.dev.yaml").read_text(encoding="utf-8")
    price_book = next(crd for crd in yaml.safe_load_all(crds) if crd["spec"]["names"]["kind"] == PRICE_BOOK.name)
    schema = price_book["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return {
        CHART / "values.schema.json": values_schema(settings, schema),
        CHART / "README.md": readme(settings, description=about["description"], version=about["version"]),
        **{CHART / "templates/crds" / name: text for name, text in crd_templates(crds).items()},
    }


def write_changed(files: dict[Path, str], *, check: bool) -> list[Path]:
    """Files that were not as they should be; they are now, unless it is only a check."""
    changed = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in [] if check else changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return changed


def main() -> None:
    """Write the files, or with --check only name those that differ and exit with 1."""
    check = "--check" in sys.argv[1:]
    changed = write_changed(chart_files(), check=check)
    helm = find_helm(ROOT)
    if helm is None:
        sys.stderr.write("no helm here: manifests/install is left as it is\n")
    else:
        install = ROOT / "manifests/install"
        files = {install / name: text for name, text in plain_manifests(helm, CHART).items()}
        changed += write_changed(files, check=check)
    if check and changed:
        names = ", ".join(str(path.relative_to(ROOT)) for path in changed)
        sys.exit(f"not what `make generate` writes: {names}")


if __name__ == "__main__":
    main()
