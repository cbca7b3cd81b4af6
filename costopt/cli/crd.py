"""`costopt crd`: print the CustomResourceDefinitions, ready for `kubectl apply -f -`."""

import typer
import yaml

from costopt.schema.crd import custom_resource_definitions


class _PlainDumper(yaml.SafeDumper):
    """Writes repeated parts out in full: anchors are hard to read in a CRD."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 -- PyYAML's signature
        return True


def crds_as_yaml() -> str:
    """All CRDs as one YAML stream."""
    return yaml.dump_all(
        custom_resource_definitions(),
        Dumper=_PlainDumper,
        sort_keys=False,
        width=120,
        allow_unicode=True,
        explicit_start=True,
    )


def crd() -> None:
    """Print the CustomResourceDefinitions of CostOptJob and PriceBook."""
    typer.echo(crds_as_yaml(), nl=False)
