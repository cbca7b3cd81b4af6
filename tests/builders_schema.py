"""A valid job and price book as plain data, and every kind of mistake one can make in them, or in changing them.

The tables are checked by `costopt validate`'s code (tests/schema/test_document.py), by the API server's own validation
code (tests/schema/test_crd.py), and by whoever has an API server: all must answer with the same sentence.
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
    """A document with one mistake, where it is found, and the sentence that answers it."""

    name: str
    document: Plain
    field: str
    sentence: str
    """Part of the one sentence that `costopt validate` and the API server both answer with."""
    advice: str = ""
    """Part of what `costopt validate` adds to it."""


@dataclass(frozen=True)
class ChangeCase:
    """A change of a stored document, and part of the sentence that refuses it; None where it is allowed."""

    name: str
    before: Plain
    after: Plain
    sentence: str | None


def _in_job(path: str, value: Any) -> Plain:
    return _changed(plain_job(), path, value)


def _in_book(path: str, value: Any) -> Plain:
    return _changed(plain_price_book(), path, value)


def _in_pods(**pods: Any) -> Plain:
    return plain_job(pods=pods)


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
PODS = "spec.pods"

MISTAKES = [
    MistakeCase(
        "numNodes of zero",
        _in_job(f"{TRAIN}.numNodes", 0),
        f"{TRAIN}.numNodes",
        "spec.train.numNodes in body should be greater than or equal to 1",
    ),
    MistakeCase(
        "numNodes in words",
        _in_job(f"{TRAIN}.numNodes", "two"),
        f"{TRAIN}.numNodes",
        'Invalid value: "string": spec.train.numNodes in body must be of type integer: "string"',
        'it must be a whole number, not "two"',
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
        'Unsupported value: "ZeRO": supported values: "DDP", "ModelParallel"',
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
        "in body should match '^[0-9]{1,15}",
        'it must be a Kubernetes quantity of at least 0, such as 2, "500m" or "16Gi"',
    ),
    MistakeCase(
        "a negative request",
        _in_job(f"{TRAIN}.resourcesPerNode.requests.cpu", -1),
        f"{TRAIN}.resourcesPerNode",
        "quantities must be at least 0",
    ),
    MistakeCase(
        "a misspelt field",
        _in_job(f"{TRAIN}.numNode", 2),
        f"{TRAIN}.numNode",
        'unknown field "spec.train.numNode"',
        "did you mean numNodes? the fields of Train are command,",
    ),
    MistakeCase(
        "a learning rate as a float",
        _in_job(f"{RECIPE}.optimizer", {"learningRate": 0.001}),
        f"{RECIPE}.optimizer.learningRate",
        'Invalid value: "number": spec.train.recipe.optimizer.learningRate in body must be of type string: "number"',
        'put it in quotes, as "0.001"',
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
        "spec.compress[2]",
        'Duplicate value: {"name":"int8"}',
        "compress must not hold two items of the same name",
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
        "spec.budget.amount in body should match '^[0-9]{1,12}",
        "it must be an amount of at least 0 in quotes",
    ),
    MistakeCase(
        "a spec without train", _in_job("spec.train", REMOVED), "spec.train", "Required value", "it is required"
    ),
    MistakeCase(
        "a negative price",
        _in_book("spec.prices.0.listUnitPrice", "-0.04"),
        "spec.prices[0].listUnitPrice",
        "spec.prices[0].listUnitPrice in body should match '^[0-9]{1,12}",
        "it must be an amount of at least 0 in quotes",
    ),
    MistakeCase(
        "a second currency",
        _in_book("spec.prices.0.currency", "EUR"),
        "spec.prices[0].currency",
        'unknown field "spec.prices[0].currency"',
        "a book has one currency",
    ),
    MistakeCase(
        "a currency in small letters",
        _in_book("spec.currency", "usd"),
        "spec.currency",
        "spec.currency in body should match '^[A-Z]{3}$'",
        "three capital letters",
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
        "spec.prices[0].effectiveFrom in body should match",
        "it must be a day of the calendar",
    ),
    MistakeCase(
        "two rows for one price",
        _in_book("spec.prices", TWICE),
        "spec.prices[2]",
        'Duplicate value: {"capacityType":"OnDemand","effectiveFrom":"2026-01-01","product":"","resource":"cpu"}',
        "prices must not hold two items of the same resource, product, capacityType, effectiveFrom",
    ),
    MistakeCase(
        "a book without prices",
        _in_book("spec.prices", []),
        "spec.prices",
        "Invalid value: 0: spec.prices in body should have at least 1 items",
    ),
    MistakeCase(
        "a deadline in nanoseconds",
        _in_job("spec.activeDeadlineSeconds", 10**10),
        "spec.activeDeadlineSeconds",
        "Invalid value: 10000000000: spec.activeDeadlineSeconds in body should be less than or equal to 1000000000",
    ),
    MistakeCase(
        "an image without a name",
        _in_job(f"{TRAIN}.image", ""),
        f"{TRAIN}.image",
        'Invalid value: "": spec.train.image in body should be at least 1 chars long',
        "it must not be empty",
    ),
    MistakeCase(
        "a price book's name that is too long",
        _in_job("spec.priceBookName", "b" * 64),
        "spec.priceBookName",
        "Too long: may not be more than 63 bytes",
    ),
    MistakeCase(
        "more variants than a job may have",
        _in_job("spec.compress", lambda found: [{**found[0], "name": f"v{index}"} for index in range(17)]),
        "spec.compress",
        "Too many: 17: must have at most 16 items",
    ),
    MistakeCase(
        "a list that is a mapping",
        _in_job("spec.compress", {}),
        "spec.compress",
        'Invalid value: "object": spec.compress in body must be of type array: "object"',
    ),
    MistakeCase(
        "a mapping that is text",
        _in_job(RECIPE, "recipe.yaml"),
        RECIPE,
        'Invalid value: "string": spec.train.recipe in body must be of type object: "string"',
    ),
    MistakeCase(
        "a yes in words",
        _in_job("spec.suspend", "yes"),
        "spec.suspend",
        'Invalid value: "string": spec.suspend in body must be of type boolean: "string"',
        'it must be true or false, not "yes"',
    ),
    MistakeCase(
        "a fraction of a vCPU as a number",
        _in_job(f"{TRAIN}.resourcesPerNode.requests.cpu", 0.5),
        f"{TRAIN}.resourcesPerNode.requests.cpu",
        "spec.train.resourcesPerNode.requests.cpu in body must be of type integer,string",
        'it must be a Kubernetes quantity of at least 0, such as 2, "500m"',
    ),
    MistakeCase(
        "a device without its domain",
        _in_job(f"{TRAIN}.resourcesPerNode.limits", {"gpu": 1}),
        f"{TRAIN}.resourcesPerNode",
        "resources must be cpu, memory, ephemeral-storage, hugepages-*, or a device with its domain",
    ),
    MistakeCase(
        "a request above its limit",
        _in_job(f"{TRAIN}.resourcesPerNode.limits", {"memory": "512Mi"}),
        f"{TRAIN}.resourcesPerNode",
        "requests must be at most the limits of the same resources",
    ),
    MistakeCase(
        "a GPU in requests alone",
        _in_job(f"{TRAIN}.resourcesPerNode.requests", {"cpu": 1, "memory": "1Gi", "nvidia.com/gpu": 2}),
        f"{TRAIN}.resourcesPerNode",
        "devices such as nvidia.com/gpu must be asked for in limits",
    ),
    MistakeCase(
        "a program as one long command",
        _changed(
            plain_job(compress=[]),
            TRAIN,
            {
                "resourcesPerNode": {"requests": {"cpu": 1, "memory": "1Gi"}},
                "command": ["python", "-c", *["#" * 4096] * 32],
            },
        ),
        TRAIN,
        "command must be at most 131,072 characters in all",
    ),
    MistakeCase(
        "a claim of nothing",
        _in_job("spec.storage", {"create": {"size": "0Gi"}}),
        "spec.storage.create",
        "size must be more than 0",
    ),
    MistakeCase(
        "storage of two kinds",
        _in_job("spec.storage", {"claimName": "shared", "create": {"size": "1Gi"}}),
        "spec.storage",
        "exactly one of claimName (a claim that is there) and create (one to be made) must be set",
    ),
    MistakeCase(
        "storage of no kind",
        _in_job("spec.storage", {}),
        "spec.storage",
        "exactly one of claimName (a claim that is there) and create (one to be made) must be set",
    ),
    MistakeCase(
        "a claim of less than nothing",
        _in_job("spec.storage", {"create": {"size": -1}}),
        "spec.storage.create",
        "quantities must be at least 0",
    ),
    MistakeCase(
        "a claim for one node to read",
        _in_job("spec.storage", {"create": {"size": "1Gi", "accessMode": "ReadOnlyMany"}}),
        "spec.storage.create.accessMode",
        'Unsupported value: "ReadOnlyMany": supported values: "ReadWriteMany", "ReadWriteOnce"',
    ),
    MistakeCase(
        "no time to start",
        _in_job("spec.restarts", {"startTimeoutSeconds": 0}),
        "spec.restarts.startTimeoutSeconds",
        "spec.restarts.startTimeoutSeconds in body should be greater than or equal to 1",
    ),
    MistakeCase(
        "no patience before a deletion by force",
        _in_job("spec.restarts", {"forceDeleteAfterSeconds": 0}),
        "spec.restarts.forceDeleteAfterSeconds",
        "spec.restarts.forceDeleteAfterSeconds in body should be greater than or equal to 1",
    ),
    MistakeCase(
        "no time to end",
        _in_pods(terminationGracePeriodSeconds=0),
        f"{PODS}.terminationGracePeriodSeconds",
        "spec.pods.terminationGracePeriodSeconds in body should be greater than or equal to 1",
    ),
    *(
        MistakeCase(
            f"a user's own {name}",
            _in_pods(env=[{"name": name, "value": "0"}]),
            f"{PODS}.env[0]",
            "name must not be a variable that costopt sets itself (COSTOPT_*, PET_*, TORCHELASTIC_*,",
        )
        for name in ("RANK", "MASTER_ADDR", "COSTOPT_ATTEMPT", "PET_NNODES", "TORCHELASTIC_RUN_ID")
    ),
    MistakeCase(
        "a variable with a dash",
        _in_pods(env=[{"name": "NCCL-DEBUG", "value": "INFO"}]),
        f"{PODS}.env[0].name",
        "spec.pods.env[0].name in body should match '^[A-Za-z_][A-Za-z0-9_]*$'",
        "it must be letters, digits and '_'",
    ),
    MistakeCase(
        "a variable without a value",
        _in_pods(env=[{"name": "NCCL_DEBUG"}]),
        f"{PODS}.env[0]",
        "exactly one of value and valueFrom must be set",
    ),
    MistakeCase(
        "a variable from nowhere",
        _in_pods(env=[{"name": "TOKEN", "valueFrom": {}}]),
        f"{PODS}.env[0].valueFrom",
        "exactly one of secretKeyRef and configMapKeyRef must be set",
    ),
    MistakeCase(
        "a variable given twice",
        _in_pods(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        f"{PODS}.env[1]",
        'Duplicate value: {"name":"A"}',
        "env must not hold two items of the same name",
    ),
    *(
        MistakeCase(
            f"a {kind} of costopt's own: {key}",
            _in_pods(**{kind: {key: "x"}}),
            PODS,
            f"{kind} must not name what costopt or the Job controller sets itself (costopt.dev/*,",
        )
        for kind, key in (
            ("labels", "costopt.dev/job"),
            ("labels", "app.kubernetes.io/managed-by"),
            ("labels", "batch.kubernetes.io/controller-uid"),
            ("labels", "job-name"),
            ("annotations", "batch.kubernetes.io/job-completion-index"),
        )
    ),
    *(
        MistakeCase(
            f"{kind} with a key that is none",
            _in_pods(**{kind: {"-team": "a"}}),
            PODS,
            f"{kind} must have label keys as its keys",
        )
        for kind in ("labels", "annotations", "nodeSelector")
    ),
    MistakeCase(
        "a label's value with a space",
        _in_pods(labels={"team": "a b"}),
        f"{PODS}.labels.team",
        "spec.pods.labels.team in body should match",
        "it must be at most 63 letters, digits, '-', '_' and '.'",
    ),
    MistakeCase(
        "more labels than a pod may have",
        _in_pods(labels={f"l{index}": "" for index in range(33)}),
        f"{PODS}.labels",
        "Too many: 33: must have at most 32 items",
    ),
    MistakeCase(
        "a folder of the node as a volume",
        _in_pods(volumes=[{"name": "node", "emptyDir": {}, "hostPath": {"path": "/"}}]),
        f"{PODS}.volumes[0].hostPath",
        'unknown field "spec.pods.volumes[0].hostPath"',
        "the fields of Volume are configMap, csi, downwardAPI,",
    ),
    MistakeCase(
        "a volume without a source",
        _in_pods(volumes=[{"name": "data"}]),
        f"{PODS}.volumes[0]",
        "exactly one of configMap, csi, downwardAPI, emptyDir,",
    ),
    MistakeCase(
        "a volume of two sources",
        _in_pods(volumes=[{"name": "data", "emptyDir": {}, "secret": {"secretName": "s"}}]),
        f"{PODS}.volumes[0]",
        "exactly one of configMap, csi, downwardAPI, emptyDir,",
    ),
    MistakeCase(
        "a volume of costopt's own",
        _in_pods(volumes=[{"name": "storage", "emptyDir": {}}]),
        f"{PODS}.volumes[0]",
        "name must not be that of a volume of costopt's own (settings, storage, tmp, shm)",
    ),
    MistakeCase(
        "a mount of no volume",
        _in_pods(volumeMounts=[{"name": "settings", "mountPath": "/data"}]),
        PODS,
        "volumeMounts must name volumes of spec.pods.volumes",
    ),
    *(
        MistakeCase(
            f"a mount at {path}",
            _in_pods(volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=[{"name": "data", "mountPath": path}]),
            f"{PODS}.volumeMounts[0]",
            "mountPath must not be, lie below or hold a folder that is costopt's or the node's own (/etc/costopt,",
        )
        for path in ("/storage", "/etc/costopt/int8.json", "/etc", "/tmp/cache", "/dev/shm", "/dev", "/proc/1")
    ),
    *(
        MistakeCase(
            f"a mount by the crooked path {path}",
            _in_pods(volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=[{"name": "data", "mountPath": path}]),
            f"{PODS}.volumeMounts[0].mountPath",
            "spec.pods.volumeMounts[0].mountPath in body should match",
            "it must be an absolute path without",
        )
        for path in ("/data/../storage", "//storage", "/./tmp", "/data/", "data", "/a:b")
    ),
    MistakeCase(
        "a path out of its volume",
        _in_pods(
            volumes=[{"name": "data", "emptyDir": {}}],
            volumeMounts=[{"name": "data", "mountPath": "/data", "subPath": "../.."}],
        ),
        f"{PODS}.volumeMounts[0].subPath",
        "spec.pods.volumeMounts[0].subPath in body should match",
        "it must be a relative path without",
    ),
    MistakeCase(
        "two volumes in one place",
        _in_pods(volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=[{"name": "data", "mountPath": "/data"}] * 2),
        f"{PODS}.volumeMounts[1]",
        'Duplicate value: {"mountPath":"/data"}',
    ),
    MistakeCase(
        "a toleration of any value that names one",
        _in_pods(tolerations=[{"key": "spot", "operator": "Exists", "value": "true"}]),
        f"{PODS}.tolerations[0]",
        "operator Exists takes no value, and operator Equal needs a key",
    ),
    MistakeCase(
        "a toleration of no taint",
        _in_pods(tolerations=[{"value": "true"}]),
        f"{PODS}.tolerations[0]",
        "operator Exists takes no value, and operator Equal needs a key",
    ),
    MistakeCase(
        "a toleration for a while of what lasts",
        _in_pods(tolerations=[{"key": "spot", "operator": "Exists", "tolerationSeconds": 30}]),
        f"{PODS}.tolerations[0]",
        "tolerationSeconds needs effect NoExecute",
    ),
    MistakeCase(
        "a class with a capital letter",
        _in_pods(priorityClassName="High"),
        f"{PODS}.priorityClassName",
        "spec.pods.priorityClassName in body should match",
        "it must be DNS labels",
    ),
]

CHANGES = [
    *(
        ChangeCase(
            f"another {field}",
            plain_job(**before),
            plain_job(**after),
            f"{field} cannot be changed after creation; create another job",
        )
        for field, before, after in (
            ("train", {}, {"train": {**plain_job()["spec"]["train"], "numNodes": 1}}),
            ("compress", {}, {"compress": []}),
            ("storage", {}, {"storage": {"claimName": "shared"}}),
            ("storage", {"storage": {"claimName": "shared"}}, {}),
            ("storage", {"storage": {"create": {"size": "1Gi"}}}, {"storage": {"create": {"size": "2Gi"}}}),
            ("pods", {"pods": {"labels": {"team": "a"}}}, {"pods": {"labels": {"team": "b"}}}),
            ("pods", {"pods": {"affinity": {"x": [{"y": 1}]}}}, {"pods": {"affinity": {"x": [{"y": 2}]}}}),
            ("priceBookName", {}, {"priceBookName": "other"}),
        )
    ),
    ChangeCase(
        "another currency",
        plain_price_book(),
        plain_price_book(currency="EUR"),
        "currency cannot be changed after creation; create another price book",
    ),
    ChangeCase("suspending", plain_job(), plain_job(suspend=True), None),
    ChangeCase("a budget", plain_job(), plain_job(budget={"amount": "5"}), None),
    ChangeCase("more failures", plain_job(), plain_job(restarts={"maxFailures": 9}), None),
    ChangeCase("a deadline", plain_job(), plain_job(activeDeadlineSeconds=60, ttlSecondsAfterFinished=60), None),
    ChangeCase("another price", plain_price_book(), _in_book("spec.prices.0.listUnitPrice", "0.05"), None),
    ChangeCase("nothing", plain_job(pods={"affinity": {"x": [1]}}), plain_job(pods={"affinity": {"x": [1]}}), None),
]
