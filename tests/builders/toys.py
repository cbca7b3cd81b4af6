"""A kind of resource that only tests know."""

from dataclasses import dataclass
from typing import Any, Literal

from costopt.schema.base import API_VERSION, Strict
from costopt.schema.job import Metadata
from costopt.schema.kinds import Column, Kind, Status


class ToySpec(Strict):
    """What a toy is made of."""

    colour: Literal["red", "blue"]
    """Its colour."""


class ToyStatus(Strict):
    """How a toy is."""

    broken: bool
    """Whether it still works."""


class Toy(Strict):
    """What only this test knows."""

    api_version: Literal["costopt.dev/v1alpha1"]
    """The version of this language."""
    kind: Literal["Toy"]
    """The kind of document."""
    metadata: Metadata
    """Its name."""
    spec: ToySpec
    """What is asked for."""


TOY = Kind(
    model=Toy,
    noun="toy",
    plural="toys",
    short_name="ty",
    namespaced=True,
    columns=(Column("Colour", "string", ".spec.colour", "Its colour"),),
    status=Status(ToyStatus, "Written by costopt: how the toy is."),
)
TOY_DOCUMENT = {"apiVersion": API_VERSION, "kind": "Toy", "metadata": {"name": "bear"}, "spec": {"colour": "red"}}


@dataclass(frozen=True)
class KeptToy:
    """What the operator would keep of a toy."""

    namespace: str
    name: str
    uid: str
    resource_version: int

    @staticmethod
    def parse(data: dict[str, Any]) -> "KeptToy":
        """A toy out of the API server's JSON, which says what it is."""
        assert (data["apiVersion"], data["kind"]) == (API_VERSION, "Toy")
        metadata = data["metadata"]
        return KeptToy(metadata["namespace"], metadata["name"], metadata["uid"], int(metadata["resourceVersion"]))
