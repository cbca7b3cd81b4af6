"""A valid job and price book as plain data, and the row types of the tables of mistakes in them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]


def plain_job(**spec: Any) -> Plain:
    """A valid CostOptJob; keyword arguments replace parts of its spec."""
    return {
        "apiVersion": "costopt.dev/v1alpha1",
        "kind": "CostOptJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "train": {
                "numNodes": 2,
                "resourcesPerNode": {"requests": {"cpu": "500m", "memory": "1Gi"}},
                "recipe": {
                    "model": {"type": "DecoderLM"},
                    "data": {"type": "Text", "text": {"path": "corpus.txt"}},
                    "batch": {"globalBatchSize": 8, "microBatchSize": 2},
                    "totalSteps": 40,
                },
            },
            "compress": [
                {"name": "int8", "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]},
                {
                    "name": "small",
                    "steps": [{"type": "Prune", "prune": {"structure": "Structured", "percent": 25}}],
                },
            ],
            "priceBookName": "sample",
            **spec,
        },
    }


ON_TEXT: Plain = {"data": {"type": "Text", "text": {"path": "corpus.txt"}}}
"""What a command's model is measured on."""


def plain_command_job() -> Plain:
    """A valid CostOptJob of a command, of whose model a variant is made."""
    job = plain_job(evaluation=ON_TEXT)
    job["spec"]["train"]["command"] = ["python3", "train.py"]
    del job["spec"]["train"]["recipe"]
    return job


def plain_given_job(**spec: Any) -> Plain:
    """A valid CostOptJob without a training: variants of a model that is there, each with its resources."""
    resources = {"requests": {"cpu": "1", "memory": "2Gi"}}
    job = plain_job(model={"path": "/models/tiny"}, evaluation=ON_TEXT, **spec)
    del job["spec"]["train"]
    for variant in job["spec"]["compress"]:
        variant.setdefault("resources", resources)
    return job


def plain_price_book(**spec: Any) -> Plain:
    """A valid PriceBook; keyword arguments replace parts of its spec."""
    row = {"effectiveFrom": "2026-01-01", "source": "sample figure"}
    return {
        "apiVersion": "costopt.dev/v1alpha1",
        "kind": "PriceBook",
        "metadata": {"name": "sample"},
        "spec": {
            "currency": "USD",
            "prices": [
                {"resource": "cpu", "unit": "vCPU-Hours", "listUnitPrice": "0.04", **row},
                {"resource": "memory", "unit": "GiB-Hours", "listUnitPrice": "0.005", **row},
            ],
            **spec,
        },
    }


@dataclass(frozen=True)
class MistakeCase:
    """A document with one mistake, its place, and the sentence that answers it."""

    name: str
    document: Plain
    field: str
    sentence: str
    """Part of the sentence that both `costopt validate` and the API server answer with."""
    advice: str = ""
    """Part of what `costopt validate` adds to it."""
    server_advice: str = ""
    """Part of what the API server adds to it."""
    server_field: str = ""
    """The field that the API server names, if it differs: for a map's keys it names the map."""


@dataclass(frozen=True)
class ChangeCase:
    """A change of a stored document, and part of the sentence that refuses it; None if it is allowed."""

    name: str
    before: Plain
    after: Plain
    sentence: str | None


def in_job(path: str, value: Any) -> Plain:
    return changed(plain_job(), path, value)


def in_command_job(path: str, value: Any) -> Plain:
    return changed(plain_command_job(), path, value)


def in_given_job(path: str, value: Any) -> Plain:
    return changed(plain_given_job(), path, value)


def in_book(path: str, value: Any) -> Plain:
    return changed(plain_price_book(), path, value)


def in_pods(**pods: Any) -> Plain:
    return plain_job(pods=pods)


REMOVED: Any = object()


def changed(document: Plain, path: str, value: Any) -> Plain:
    document = copy.deepcopy(document)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    target: Any = document
    for key in parents:
        target = target[key]
    if value is REMOVED:
        del target[last]
    elif callable(value):
        target[last] = value(target[last])
    else:
        target[last] = value
    return document


def _twice(items: list[Any]) -> list[Any]:
    return [*items, copy.deepcopy(items[0])]


TWICE: Callable[[list[Any]], list[Any]] = _twice
TRAIN = "spec.train"
RECIPE = "spec.train.recipe"
PODS = "spec.pods"
