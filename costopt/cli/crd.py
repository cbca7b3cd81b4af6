"""`costopt crd`: the CustomResourceDefinitions, ready for `kubectl apply -f -`."""

import typer

from costopt.render.text import to_yaml
from costopt.schema.crd import custom_resource_definitions


def crds_as_yaml() -> str:
    """All CRDs as one YAML stream."""
    return to_yaml(custom_resource_definitions())


def crd() -> None:
    """Print the CustomResourceDefinitions of costopt's kinds."""
    typer.echo(crds_as_yaml(), nl=False)
