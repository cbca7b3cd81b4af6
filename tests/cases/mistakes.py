"""A valid job and price book as plain data, and every kind of mistake one can make in them, or in changing them.

The tables are checked by `costopt validate`'s code (tests/schema/test_document.py), by the API server's own validation
code (tests/schema/test_crd.py), and by whoever has an API server: all must answer with the same sentence.
"""

from builders.documents import (
    RECIPE,
    REMOVED,
    TRAIN,
    TWICE,
    ChangeCase,
    MistakeCase,
    changed,
    in_book,
    in_job,
    plain_job,
    plain_price_book,
)
from cases.pod_mistakes import POD_MISTAKES

__all__ = ["CHANGES", "MISTAKES", "ChangeCase", "MistakeCase", "plain_job", "plain_price_book"]

MISTAKES = [
    MistakeCase(
        "a resource with too long a name",
        in_job(
            f"{TRAIN}.resourcesPerNode",
            {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {f"example.com/{'a' * 117}": 1}},
        ),
        f"{TRAIN}.resourcesPerNode.limits.example.com/{'a' * 117}",
        "Too long: may not be more than 128 characters",
        server_field=f"{TRAIN}.resourcesPerNode.limits",
    ),
    MistakeCase(
        "numNodes of zero",
        in_job(f"{TRAIN}.numNodes", 0),
        f"{TRAIN}.numNodes",
        "spec.train.numNodes in body should be greater than or equal to 1",
    ),
    MistakeCase(
        "numNodes in words",
        in_job(f"{TRAIN}.numNodes", "two"),
        f"{TRAIN}.numNodes",
        'Invalid value: "string": spec.train.numNodes in body must be of type integer: "string"',
        'it must be a whole number, not "two"',
    ),
    MistakeCase(
        "both recipe and command",
        in_job(f"{TRAIN}.command", ["python", "a.py"]),
        TRAIN,
        "exactly one of recipe (the built-in trainer) and command",
    ),
    MistakeCase(
        "neither recipe nor command",
        changed(plain_job(compress=[]), RECIPE, REMOVED),
        TRAIN,
        "exactly one of recipe (the built-in trainer) and command",
    ),
    MistakeCase(
        "unknown schedule of a pipeline",
        in_job(f"{RECIPE}.parallelism", {"schedule": "Looped"}),
        f"{RECIPE}.parallelism.schedule",
        'Unsupported value: "Looped": supported values: "GPipe", "OneFOneB", "Interleaved", "ZeroBubble"',
    ),
    MistakeCase(
        "more replicas than ranks",
        in_job(f"{RECIPE}.parallelism", {"dataParallel": 3}),
        TRAIN,
        "(dataParallel may be left out): each degree must divide it, such as 1",
    ),
    MistakeCase(
        "a pipeline that the ranks do not fill",
        changed(in_job(f"{RECIPE}.parallelism", {"pipeline": 2}), f"{TRAIN}.numNodes", 3),
        TRAIN,
        "(dataParallel may be left out): each degree must divide it, such as 1",
    ),
    MistakeCase(
        "a batch that the pipelines do not divide",
        changed(in_job(f"{RECIPE}.parallelism", {"pipeline": 2}), f"{TRAIN}.numNodes", 6),
        TRAIN,
        "globalBatchSize must be a multiple of microBatchSize times the data-parallel ranks",
    ),
    MistakeCase(
        "a batch that the ranks do not divide",
        in_job(f"{TRAIN}.numNodes", 3),
        TRAIN,
        "globalBatchSize must be a multiple of microBatchSize times the data-parallel ranks",
    ),
    MistakeCase(
        "a batch that the GPUs do not divide",
        in_job(f"{TRAIN}.resourcesPerNode", {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 3}}),
        TRAIN,
        "globalBatchSize must be a multiple of microBatchSize times the data-parallel ranks",
    ),
    MistakeCase(
        "a batch that the micro-batch does not divide",
        in_job(f"{RECIPE}.batch.microBatchSize", 3),
        f"{RECIPE}.batch",
        "globalBatchSize must be a multiple of microBatchSize",
    ),
    MistakeCase(
        "more pipeline ranks than layers",
        changed(in_job(f"{RECIPE}.parallelism", {"pipeline": 5}), f"{TRAIN}.numNodes", 5),
        TRAIN,
        "(pipeline times stagesPerRank) must be at most the layers of the model",
    ),
    MistakeCase(
        "ranks for which no degree was chosen",
        changed(in_job(f"{RECIPE}.parallelism", {"shard": 4}), f"{TRAIN}.numNodes", 6),
        TRAIN,
        "each degree must divide it, such as 1, 2, 3, 6",
    ),
    MistakeCase(
        "heads that the tensor ranks do not divide",
        changed(in_job(f"{RECIPE}.parallelism", {"tensor": 3}), f"{TRAIN}.numNodes", 3),
        TRAIN,
        "recipe.parallelism.tensor must divide decoderLM.numHeads",
    ),
    MistakeCase(
        "tensor ranks in a pipeline",
        changed(in_job(f"{RECIPE}.parallelism", {"tensor": 2, "pipeline": 2}), f"{TRAIN}.numNodes", 4),
        f"{RECIPE}.parallelism",
        "tensor and pipeline must not both be greater than 1",
    ),
    MistakeCase(
        "several stages on a rank in a schedule that knows only one",
        changed(in_job(f"{RECIPE}.parallelism", {"pipeline": 2, "stagesPerRank": 2}), f"{TRAIN}.numNodes", 2),
        f"{RECIPE}.parallelism",
        "stagesPerRank must be 1 unless schedule is Interleaved or ZeroBubble",
    ),
    MistakeCase(
        "layers placed by hand that are too few",
        changed(in_job(f"{RECIPE}.parallelism", {"pipeline": 2, "layersPerStage": [1, 1]}), f"{TRAIN}.numNodes", 2),
        TRAIN,
        "layersPerStage must give the layers of each stage",
    ),
    MistakeCase(
        "micro-batches that do not fill an interleaved pipeline",
        changed(
            changed(
                in_job(f"{RECIPE}.parallelism", {"pipeline": 2, "schedule": "Interleaved"}), f"{TRAIN}.numNodes", 2
            ),
            f"{RECIPE}.batch",
            {"globalBatchSize": 8, "microBatchSize": 8},
        ),
        TRAIN,
        "must be a multiple of parallelism.pipeline",
    ),
    MistakeCase(
        "more processes than GPUs",
        changed(
            in_job(
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
        in_job(f"{TRAIN}.resourcesPerNode.requests", {"cpu": 1}),
        f"{TRAIN}.resourcesPerNode",
        "must ask for cpu and memory",
    ),
    MistakeCase(
        "an unknown unit of memory",
        in_job(f"{TRAIN}.resourcesPerNode.requests.memory", "2 GB"),
        f"{TRAIN}.resourcesPerNode.requests.memory",
        "in body should match '^[0-9]{1,15}",
        'it must be a Kubernetes quantity of at least 0, such as 2, "500m" or "16Gi"',
    ),
    MistakeCase(
        "a negative request",
        in_job(f"{TRAIN}.resourcesPerNode.requests.cpu", -1),
        f"{TRAIN}.resourcesPerNode",
        "quantities must be at least 0",
    ),
    MistakeCase(
        "a misspelt field",
        in_job(f"{TRAIN}.numNode", 2),
        f"{TRAIN}.numNode",
        'unknown field "spec.train.numNode"',
        "did you mean numNodes? the fields of Train are command,",
    ),
    MistakeCase(
        "a learning rate as a float",
        in_job(f"{RECIPE}.optimizer", {"learningRate": 0.001}),
        f"{RECIPE}.optimizer.learningRate",
        'Invalid value: "number": spec.train.recipe.optimizer.learningRate in body must be of type string: "number"',
        'put it in quotes, as "0.001"',
    ),
    MistakeCase(
        "a beta of one",
        in_job(f"{RECIPE}.optimizer", {"adamW": {"beta1": "1.0"}}),
        f"{RECIPE}.optimizer.adamW",
        "beta1 and beta2 must be less than 1",
    ),
    MistakeCase(
        "an unknown optimizer",
        in_job(f"{RECIPE}.optimizer", {"type": "SGD"}),
        f"{RECIPE}.optimizer.type",
        'Unsupported value: "SGD": supported values: "AdamW"',
    ),
    MistakeCase(
        "an unknown schedule",
        in_job(f"{RECIPE}.schedule", {"type": "Linear"}),
        f"{RECIPE}.schedule.type",
        'Unsupported value: "Linear": supported values: "Cosine"',
    ),
    MistakeCase(
        "warm-up longer than training",
        in_job(f"{RECIPE}.schedule", {"warmupSteps": 40}),
        RECIPE,
        "schedule.warmupSteps must be less than totalSteps",
    ),
    MistakeCase(
        "images for a language model",
        in_job(f"{RECIPE}.data", {"type": "Images", "images": {"path": "a.npz"}}),
        RECIPE,
        "ConvNet or ResNet needs Images",
    ),
    MistakeCase(
        "text without labels for a classifier",
        in_job(f"{RECIPE}.model", {"type": "Encoder", "encoder": {"task": "Classification"}}),
        RECIPE,
        "HuggingFace with task SequenceClassification needs data.type LabelledText",
    ),
    MistakeCase(
        "labelled text for a masked language model",
        in_job(
            RECIPE,
            {
                "model": {"type": "Encoder"},
                "data": {"type": "LabelledText", "labelledText": {"path": "a.jsonl"}},
                "batch": {"globalBatchSize": 64, "microBatchSize": 1},
                "totalSteps": 40,
            },
        ),
        RECIPE,
        "HuggingFace with task SequenceClassification needs data.type LabelledText",
    ),
    MistakeCase(
        "heads that do not divide the bottleneck",
        in_job(f"{RECIPE}.model", {"type": "Encoder", "encoder": {"bottleneckDim": 30, "numHeads": 4}}),
        f"{RECIPE}.model.encoder",
        "embeddingDim (or bottleneckDim, if set) must be a multiple of numHeads",
    ),
    MistakeCase(
        "changes of text for images",
        in_job(
            RECIPE,
            {
                "model": {"type": "ConvNet"},
                "data": {"type": "Images", "images": {"path": "a"}, "transforms": [{"type": "NormalizeUnicode"}]},
                "batch": {"globalBatchSize": 64, "microBatchSize": 1},
                "totalSteps": 40,
            },
        ),
        RECIPE,
        "data.transforms are changes of text and must not be set if data.type is Images or Table",
    ),
    MistakeCase(
        "a table for a language model",
        in_job(f"{RECIPE}.data", {"type": "Table", "table": {"path": "a.npz"}}),
        RECIPE,
        "MLP needs Table",
    ),
    MistakeCase(
        "blocks that the stages do not share",
        changed(
            in_job(f"{RECIPE}.model", {"type": "ResNet", "resNet": {"numBlocks": 4, "numStages": 3}}),
            f"{RECIPE}.data",
            {"type": "Images", "images": {"path": "a.npz"}},
        ),
        f"{RECIPE}.model.resNet",
        "numBlocks must be a multiple of numStages",
    ),
    MistakeCase(
        "factors that are no smaller than the layer",
        changed(
            in_job(f"{RECIPE}.model", {"type": "MLP", "mlp": {"width": 64, "rank": 32}}),
            f"{RECIPE}.data",
            {"type": "Table", "table": {"path": "a.npz"}},
        ),
        f"{RECIPE}.model.mlp",
        "rank must be less than half of width",
    ),
    MistakeCase(
        "settings of another model type",
        in_job(f"{RECIPE}.model", {"type": "DecoderLM", "convNet": {}}),
        f"{RECIPE}.model",
        "exactly the settings that `type` names must be set",
    ),
    MistakeCase(
        "settings of another data type",
        in_job(f"{RECIPE}.data.type", "PythonStandardLibrary"),
        f"{RECIPE}.data",
        "exactly the settings that `type` names must be set",
    ),
    MistakeCase(
        "heads that do not divide the width",
        in_job(f"{RECIPE}.model.decoderLM", {"numHeads": 3}),
        f"{RECIPE}.model.decoderLM",
        "embeddingDim must be a multiple of numHeads",
    ),
    MistakeCase(
        "heads that do not divide into those of keys and values",
        in_job(f"{RECIPE}.model.decoderLM", {"numHeads": 4, "numKeyValueHeads": 3}),
        f"{RECIPE}.model.decoderLM",
        "numHeads must be a multiple of numKeyValueHeads",
    ),
    MistakeCase(
        "rotary heads of an odd width, by a preset",
        in_job(f"{RECIPE}.model.decoderLM", {"preset": "Llama", "embeddingDim": 20, "numHeads": 4}),
        f"{RECIPE}.model.decoderLM",
        "embeddingDim / numHeads must be even for Rotary positions",
    ),
    MistakeCase(
        "a base of angles that nothing is turned by",
        in_job(f"{RECIPE}.model.decoderLM", {"preset": "GPT2", "rotaryBase": 500000}),
        f"{RECIPE}.model.decoderLM",
        "rotaryBase must not be set unless positions are Rotary",
    ),
    MistakeCase(
        "factors that are no smaller than the matrix",
        in_job(f"{RECIPE}.model.decoderLM", {"embeddingDim": 64, "numKeyValueHeads": 1, "rank": 13}),
        f"{RECIPE}.model.decoderLM",
        "rank must be so small that two factors have fewer weights than the matrix",
    ),
    MistakeCase(
        "an unknown preset",
        in_job(f"{RECIPE}.model.decoderLM", {"preset": "GPT3"}),
        f"{RECIPE}.model.decoderLM.preset",
        'Unsupported value: "GPT3": supported values: "GPT2", "Llama"',
    ),
    MistakeCase(
        "quantizing before pruning",
        in_job(
            "spec.compress.0.steps",
            lambda steps: [*steps, {"type": "Prune", "prune": {"structure": "Unstructured", "percent": 10}}],
        ),
        "spec.compress[0]",
        "a Quantize step must be the last",
    ),
    MistakeCase(
        "two variants of one name",
        in_job("spec.compress", TWICE),
        "spec.compress[2]",
        'Duplicate value: {"name":"int8"}',
        "compress must not hold two items of the same name",
    ),
    MistakeCase(
        "a variant named train",
        in_job("spec.compress.0.name", "train"),
        "spec.compress[0]",
        "name must not be 'train'",
    ),
    MistakeCase(
        "a variant named model",
        in_job("spec.compress.0.name", "model"),
        "spec.compress[0]",
        "name must not be 'model' or 'adapter'",
    ),
    MistakeCase(
        "a model of the Hugging Face library that is nowhere",
        in_job(f"{RECIPE}.model", {"type": "HuggingFace"}),
        f"{RECIPE}.model",
        "exactly the settings that `type` names must be set (huggingFace for HuggingFace)",
    ),
    MistakeCase(
        "a model of the Hugging Face library from two places",
        in_job(f"{RECIPE}.model", {"type": "HuggingFace", "huggingFace": {"path": "a", "hub": "org/a"}}),
        f"{RECIPE}.model.huggingFace",
        "exactly one of path (a folder with its weights), config (a config.json, or a folder with one, to train from",
    ),
    MistakeCase(
        "an id that no hub has",
        in_job(f"{RECIPE}.model", {"type": "HuggingFace", "huggingFace": {"hub": "https://hub/org/a"}}),
        f"{RECIPE}.model.huggingFace.hub",
        "spec.train.recipe.model.huggingFace.hub in body should match",
        "it must be the id of a model at the hub, such as org/name or org/name@revision",
    ),
    MistakeCase(
        "adapters for a model from scratch",
        in_job(f"{RECIPE}.model", {"type": "HuggingFace", "huggingFace": {"config": "a.json", "lora": {}}}),
        f"{RECIPE}.model.huggingFace",
        "lora needs path or hub",
    ),
    MistakeCase(
        "a pipeline through a model that it cannot cut",
        changed(
            in_job(f"{RECIPE}.model", {"type": "HuggingFace", "huggingFace": {"path": "a"}}),
            f"{RECIPE}.parallelism",
            {"pipeline": 2},
        ),
        TRAIN,
        "recipe.parallelism.pipeline must be at most the layers of the model (",
    ),
    MistakeCase(
        "a file of a tokenizer that is learned",
        in_job(f"{RECIPE}.data.tokenizer", {"type": "BPE", "path": "tokenizer.json"}),
        f"{RECIPE}.data.tokenizer",
        "path must not be set unless type is HuggingFace",
    ),
    MistakeCase(
        "a step without its settings",
        in_job("spec.compress.0.steps.0", {"type": "Prune"}),
        "spec.compress[0].steps[0]",
        "exactly the settings that `type` names must be set",
    ),
    MistakeCase(
        "compressing the model of a command",
        changed(in_job(f"{TRAIN}.command", ["python"]), RECIPE, REMOVED),
        "spec",
        "compress needs train.recipe",
    ),
    MistakeCase(
        "a budget without prices",
        changed(in_job("spec.budget", {"amount": "5"}), "spec.priceBookName", REMOVED),
        "spec",
        "budget needs priceBookName",
    ),
    MistakeCase(
        "a negative budget",
        in_job("spec.budget", {"amount": "-5"}),
        "spec.budget.amount",
        "spec.budget.amount in body should match '^[0-9]{1,12}",
        "it must be an amount of at least 0 in quotes",
    ),
    MistakeCase(
        "a spec without train", in_job("spec.train", REMOVED), "spec.train", "Required value", "it is required"
    ),
    MistakeCase(
        "a negative price",
        in_book("spec.prices.0.listUnitPrice", "-0.04"),
        "spec.prices[0].listUnitPrice",
        "spec.prices[0].listUnitPrice in body should match '^[0-9]{1,12}",
        "it must be an amount of at least 0 in quotes",
    ),
    MistakeCase(
        "a second currency",
        in_book("spec.prices.0.currency", "EUR"),
        "spec.prices[0].currency",
        'unknown field "spec.prices[0].currency"',
        "a book has one currency",
    ),
    MistakeCase(
        "a currency in small letters",
        in_book("spec.currency", "usd"),
        "spec.currency",
        "spec.currency in body should match '^[A-Z]{3}$'",
        "three capital letters",
    ),
    MistakeCase(
        "a price per something else",
        in_book("spec.prices.1.unit", "vCPU-Hours"),
        "spec.prices[1]",
        "unit must be the resource's own",
    ),
    MistakeCase(
        "a day that is not in the calendar",
        in_book("spec.prices.0.effectiveFrom", "2026-02-30"),
        "spec.prices[0]",
        "effectiveFrom must be a day of the calendar",
    ),
    MistakeCase(
        "a month that is not in the calendar",
        in_book("spec.prices.0.effectiveFrom", "2026-13-01"),
        "spec.prices[0].effectiveFrom",
        "spec.prices[0].effectiveFrom in body should match",
        "it must be a day of the calendar",
    ),
    MistakeCase(
        "two rows for one price",
        in_book("spec.prices", TWICE),
        "spec.prices[2]",
        'Duplicate value: {"capacityType":"OnDemand","effectiveFrom":"2026-01-01","product":"","resource":"cpu"}',
        "prices must not hold two items of the same resource, product, capacityType, effectiveFrom",
    ),
    MistakeCase(
        "a book without prices",
        in_book("spec.prices", []),
        "spec.prices",
        "Invalid value: 0: spec.prices in body should have at least 1 items",
    ),
    MistakeCase(
        "a deadline in nanoseconds",
        in_job("spec.activeDeadlineSeconds", 10**10),
        "spec.activeDeadlineSeconds",
        "Invalid value: 10000000000: spec.activeDeadlineSeconds in body should be less than or equal to 1000000000",
    ),
    MistakeCase(
        "an image without a name",
        in_job(f"{TRAIN}.image", ""),
        f"{TRAIN}.image",
        'Invalid value: "": spec.train.image in body should be at least 1 chars long',
        "it must not be empty",
    ),
    MistakeCase(
        "a price book's name that is too long",
        in_job("spec.priceBookName", "b" * 64),
        "spec.priceBookName",
        "Too long: may not be more than 63 bytes",
        "it must have at most 63 characters",
    ),
    MistakeCase(
        "a variant's name that is too long",
        in_job("spec.compress.0.name", "v" * 31),
        "spec.compress[0].name",
        "Too long: may not be more than 30 bytes",
        "it must have at most 30 characters",
    ),
    MistakeCase(
        "more variants than a job may have",
        in_job("spec.compress", lambda found: [{**found[0], "name": f"v{index}"} for index in range(17)]),
        "spec.compress",
        "Too many: 17: must have at most 16 items",
    ),
    MistakeCase(
        "a list that is a mapping",
        in_job("spec.compress", {}),
        "spec.compress",
        'Invalid value: "object": spec.compress in body must be of type array: "object"',
    ),
    MistakeCase(
        "a mapping that is text",
        in_job(RECIPE, "recipe.yaml"),
        RECIPE,
        'Invalid value: "string": spec.train.recipe in body must be of type object: "string"',
    ),
    MistakeCase(
        "a yes in words",
        in_job("spec.suspend", "yes"),
        "spec.suspend",
        'Invalid value: "string": spec.suspend in body must be of type boolean: "string"',
        'it must be true or false, not "yes"',
    ),
    MistakeCase(
        "a fraction of a vCPU as a number",
        in_job(f"{TRAIN}.resourcesPerNode.requests.cpu", 0.5),
        f"{TRAIN}.resourcesPerNode.requests.cpu",
        "spec.train.resourcesPerNode.requests.cpu in body must be of type integer,string",
        'it must be a Kubernetes quantity of at least 0, such as 2, "500m"',
    ),
    MistakeCase(
        "a device without its domain",
        in_job(f"{TRAIN}.resourcesPerNode.limits", {"gpu": 1}),
        f"{TRAIN}.resourcesPerNode",
        "resources must be cpu, memory, ephemeral-storage, hugepages-*, or a device with its domain",
    ),
    MistakeCase(
        "a request above its limit",
        in_job(f"{TRAIN}.resourcesPerNode.limits", {"memory": "512Mi"}),
        f"{TRAIN}.resourcesPerNode",
        "requests must be at most the limits of the same resources",
    ),
    MistakeCase(
        "a GPU in requests alone",
        in_job(f"{TRAIN}.resourcesPerNode.requests", {"cpu": 1, "memory": "1Gi", "nvidia.com/gpu": 2}),
        f"{TRAIN}.resourcesPerNode",
        "devices such as nvidia.com/gpu must be asked for in limits",
    ),
    MistakeCase(
        "a program as one long command",
        changed(
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
    *POD_MISTAKES,
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
    ChangeCase("another price", plain_price_book(), in_book("spec.prices.0.listUnitPrice", "0.05"), None),
    ChangeCase("nothing", plain_job(pods={"affinity": {"x": [1]}}), plain_job(pods={"affinity": {"x": [1]}}), None),
]
