"""A valid job and price book as plain data, and every kind of mistake one can make in them.

The table of mistakes is checked twice: by `costopt validate`'s code (tests/schema/test_document.py) and by the API
server's own validation code (tests/schema/test_crd.py).
"""

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
    """A document with one mistake, where it is found, and part of the sentence that answers it."""

    name: str
    document: Plain
    field: str
    sentence: str
    server_says: str | None = None
    """Part of the server's own answer where it cannot be ours: bounds, types and patterns have fixed texts there."""


def _in_job(path: str, value: Any) -> Plain:
    return _changed(plain_job(), path, value)


def _in_book(path: str, value: Any) -> Plain:
    return _changed(plain_price_book(), path, value)


REMOVED: Any = object()


def _changed(document: Plain, path: str, value: Any) -> Plain:
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

MISTAKES = [
    MistakeCase(
        "numNodes of zero",
        _in_job(f"{TRAIN}.numNodes", 0),
        f"{TRAIN}.numNodes",
        "must be at least 1, not 0",
        "greater than or equal to 1",
    ),
    MistakeCase(
        "numNodes in words",
        _in_job(f"{TRAIN}.numNodes", "two"),
        f"{TRAIN}.numNodes",
        'must be a whole number, not "two"',
        "must be of type integer",
    ),
    MistakeCase(
        "both recipe and command",
        _in_job(f"{TRAIN}.command", ["python", "a.py"]),
        TRAIN,
        "exactly one of recipe (the built-in trainer) and command",
    ),
    MistakeCase(
        "neither recipe nor command",
        _changed(plain_job(compress=[]), RECIPE, REMOVED),
        TRAIN,
        "exactly one of recipe (the built-in trainer) and command",
    ),
    MistakeCase(
        "unknown strategy",
        _in_job(f"{RECIPE}.parallelism", {"strategy": "ZeRO"}),
        f"{RECIPE}.parallelism.strategy",
        'must be one of DDP or ModelParallel, not "ZeRO"',
        'supported values: "DDP", "ModelParallel"',
    ),
    MistakeCase(
        "a batch that the ranks do not divide",
        _in_job(f"{TRAIN}.numNodes", 3),
        TRAIN,
        "globalBatchSize must be a multiple of microBatchSize times the data-parallel ranks",
    ),
    MistakeCase(
        "a batch that the GPUs do not divide",
        _in_job(
            f"{TRAIN}.resourcesPerNode", {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 3}}
        ),
        TRAIN,
        "globalBatchSize must be a multiple of microBatchSize times the data-parallel ranks",
    ),
    MistakeCase(
        "a batch that the micro-batch does not divide",
        _in_job(f"{RECIPE}.batch.microBatchSize", 3),
        f"{RECIPE}.batch",
        "globalBatchSize must be a multiple of microBatchSize",
    ),
    MistakeCase(
        "more pipeline ranks than layers",
        _changed(_in_job(f"{RECIPE}.parallelism", {"strategy": "ModelParallel"}), f"{TRAIN}.numNodes", 5),
        TRAIN,
        "ModelParallel needs at least one layer",
    ),
    MistakeCase(
        "more processes than GPUs",
        _changed(
            _in_job(
                f"{TRAIN}.resourcesPerNode", {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}}
            ),
            f"{TRAIN}.processesPerNode",
            2,
        ),
        TRAIN,
        "processesPerNode must be at most the nvidia.com/gpu asked for per node",
    ),
    MistakeCase(
        "no memory asked for",
        _in_job(f"{TRAIN}.resourcesPerNode.requests", {"cpu": 1}),
        f"{TRAIN}.resourcesPerNode",
        "must ask for cpu and memory",
    ),
    MistakeCase(
        "an unknown unit of memory",
        _in_job(f"{TRAIN}.resourcesPerNode.requests.memory", "2 GB"),
        f"{TRAIN}.resourcesPerNode.requests.memory",
        "must be a Kubernetes quantity",
        "should match",
    ),
    MistakeCase(
        "a negative request",
        _in_job(f"{TRAIN}.resourcesPerNode.requests.cpu", -1),
        f"{TRAIN}.resourcesPerNode.requests.cpu",
        "must be a Kubernetes quantity of at least 0",
        "quantities must be at least 0",
    ),
    MistakeCase(
        "a misspelt field",
        _in_job(f"{TRAIN}.numNode", 2),
        f"{TRAIN}.numNode",
        "is not a field of Train; did you mean numNodes?",
        "unknown field",
    ),
    MistakeCase(
        "a learning rate as a float",
        _in_job(f"{RECIPE}.optimizer", {"learningRate": 0.001}),
        f"{RECIPE}.optimizer.learningRate",
        'put it in quotes, as "0.001"',
        "must be of type string",
    ),
    MistakeCase(
        "a beta of one",
        _in_job(f"{RECIPE}.optimizer", {"beta1": "1.0"}),
        f"{RECIPE}.optimizer",
        "beta1 and beta2 must be less than 1",
    ),
    MistakeCase(
        "warm-up longer than training",
        _in_job(f"{RECIPE}.schedule", {"warmupSteps": 40}),
        RECIPE,
        "schedule.warmupSteps must be less than totalSteps",
    ),
    MistakeCase(
        "images for a language model",
        _in_job(f"{RECIPE}.data", {"type": "Images", "images": {"path": "a.npz"}}),
        RECIPE,
        "model.type ConvNet needs data.type Images",
    ),
    MistakeCase(
        "settings of another model type",
        _in_job(f"{RECIPE}.model", {"type": "DecoderLM", "convNet": {}}),
        f"{RECIPE}.model",
        "only the settings that `type` names may be set",
    ),
    MistakeCase(
        "settings of another data type",
        _in_job(f"{RECIPE}.data.type", "PythonStandardLibrary"),
        f"{RECIPE}.data",
        "exactly the settings that `type` names must be set",
    ),
    MistakeCase(
        "heads that do not divide the width",
        _in_job(f"{RECIPE}.model.decoderLM", {"numHeads": 3}),
        f"{RECIPE}.model.decoderLM",
        "embeddingDim must be a multiple of numHeads",
    ),
    MistakeCase(
        "quantizing before pruning",
        _in_job(
            "spec.compress.0.steps",
            lambda steps: [*steps, {"type": "Prune", "prune": {"structure": "Unstructured", "percent": 10}}],
        ),
        "spec.compress[0]",
        "a Quantize step must be the last",
    ),
    MistakeCase(
        "two variants of one name",
        _in_job("spec.compress", TWICE),
        "spec",
        "must not hold two variants of the same name",
        "Duplicate value",
    ),
    MistakeCase(
        "a variant named train",
        _in_job("spec.compress.0.name", "train"),
        "spec.compress[0]",
        "name must not be 'train'",
    ),
    MistakeCase(
        "a step without its settings",
        _in_job("spec.compress.0.steps.0", {"type": "Prune"}),
        "spec.compress[0].steps[0]",
        "exactly the settings that `type` names must be set",
    ),
    MistakeCase(
        "compressing the model of a command",
        _changed(_in_job(f"{TRAIN}.command", ["python"]), RECIPE, REMOVED),
        "spec",
        "compress needs train.recipe",
    ),
    MistakeCase(
        "a budget without prices",
        _changed(_in_job("spec.budget", {"amount": "5"}), "spec.priceBookName", REMOVED),
        "spec",
        "budget needs priceBookName",
    ),
    MistakeCase(
        "a negative budget",
        _in_job("spec.budget", {"amount": "-5"}),
        "spec.budget.amount",
        "must be an amount of at least 0 in quotes",
        "should match",
    ),
    MistakeCase("a spec without train", _in_job("spec.train", REMOVED), "spec.train", "is required", "Required value"),
    MistakeCase(
        "a negative price",
        _in_book("spec.prices.0.listUnitPrice", "-0.04"),
        "spec.prices[0].listUnitPrice",
        "must be an amount of at least 0 in quotes",
        "should match",
    ),
    MistakeCase(
        "a second currency",
        _in_book("spec.prices.0.currency", "EUR"),
        "spec.prices[0].currency",
        "a book has one currency",
        "unknown field",
    ),
    MistakeCase(
        "a currency in small letters",
        _in_book("spec.currency", "usd"),
        "spec.currency",
        "three capital letters",
        "should match",
    ),
    MistakeCase(
        "a price per something else",
        _in_book("spec.prices.1.unit", "vCPU-Hours"),
        "spec.prices[1]",
        "unit must be the resource's own",
    ),
    MistakeCase(
        "a day that is not in the calendar",
        _in_book("spec.prices.0.effectiveFrom", "2026-02-30"),
        "spec.prices[0]",
        "effectiveFrom must be a day of the calendar",
    ),
    MistakeCase(
        "a month that is not in the calendar",
        _in_book("spec.prices.0.effectiveFrom", "2026-13-01"),
        "spec.prices[0].effectiveFrom",
        "must be a day of the calendar",
        "should match",
    ),
    MistakeCase(
        "two rows for one price",
        _in_book("spec.prices", TWICE),
        "spec",
        "must not hold two rows for the same resource",
        "Duplicate value",
    ),
    MistakeCase(
        "a book without prices",
        _in_book("spec.prices", []),
        "spec.prices",
        "must hold at least 1 item",
        "at least 1 items",
    ),
]
