"""The chart's README.md: a short head, and one row per setting."""

import json

from charts.generator.settings import Setting

HEAD = """\
<!-- Generated from values.yaml by `make generate`; edit the comments there. -->
# Helm chart costopt

{description}. Version {version}, for
Kubernetes 1.34 or newer. How to install, upgrade and uninstall: [docs/installing.md](../../docs/installing.md).

```sh
helm install costopt charts/costopt --namespace costopt-system --create-namespace
```

Pods meet the "restricted" Pod Security Standard. No role of the chart reads secrets.

## Settings

| setting | default | meaning |
|---|---|---|
"""


def readme(settings: tuple[Setting, ...], *, description: str, version: str) -> str:
    """The file's text."""
    return HEAD.format(description=description, version=version) + "".join(
        f"| `{'.'.join(setting.path)}` | `{json.dumps(setting.default)}` | {_meaning(setting)} |\n"
        for setting in _leaves(settings)
    )


def _meaning(setting: Setting) -> str:
    choices = setting.schema.get("enum", [])
    limits = {key: setting.schema[key] for key in ("minimum", "maximum") if key in setting.schema}
    said: str = setting.description.replace("|", "\\|")
    if choices:
        said += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    if limits:
        said += f" From {limits['minimum']} to {limits['maximum']}."
    return said


def _leaves(settings: tuple[Setting, ...]) -> list[Setting]:
    return [leaf for setting in settings for leaf in (_leaves(setting.children) if setting.children else [setting])]
