"""A valid job and price book as plain data, and every kind of mistake one can make in them, or in changing them.

The tables are checked by `costopt validate`'s code (tests/schema/test_document.py), by the API server's own validation
code (tests/schema/test_crd.py), and by whoever has an API server: all must answer with the same sentence.
"""

from builders.documents import (
    ON_TEXT,
    RECIPE,
    REMOVED,
    TRAIN,
    TWICE,
    ChangeCase,
    MistakeCase,
    changed,
    in_book,
    in_command_job,
    in_given_job,
    in_job,
    plain_command_job,
    plain_given_job,
    plain_job,
    plain_price_book,
)
from cases.mixture_mistakes import MIXTURE_MISTAKES
from cases.pod_mistakes import POD_MISTAKES
from cases.sample_mistakes import SAMPLE_MISTAKES

__all__ = ["CHANGES", "MISTAKES", "ChangeCase", "MistakeCase", "plain_job", "plain_price_book"]


def _quantize(scheme: str) -> dict[str, object]:
    return {"type": "Quantize", "quantize": {"scheme": scheme}}


def _prune(**settings: object) -> dict[str, object]:
    return {"type": "Prune", "prune": {"structure": "Unstructured", "percent": 50, **settings}}


def in_split_job(parallelism: dict[str, object], **model: object) -> dict[str, object]:
    """A job of 24 ranks."""
    of_model = changed(in_job(f"{RECIPE}.parallelism", parallelism), f"{RECIPE}.model", _decoder(**model))
    return changed(
        changed(of_model, f"{TRAIN}.numNodes", 24), f"{RECIPE}.batch", {"globalBatchSize": 72, "microBatchSize": 1}
    )


def _decoder(**settings: object) -> dict[str, object]:
    return {"type": "DecoderLM", "decoderLM": settings}


CLUSTERS = {"type": "ShareWeights", "shareWeights": {"clusterBits": 4}}
PACKED_FOR_LOSS = {"type": "Text", "text": {"path": "a.txt"}, "packing": {"boundaries": "Loss"}}

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
        "numNodes between whole numbers",
        in_job(f"{TRAIN}.numNodes", 2.5),
        f"{TRAIN}.numNodes",
        'spec.train.numNodes in body must be of type integer: "number"',
        "it must be a whole number, not 2.5",
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
        "times processesPerNode (dataParallel may be left out)",
        "; each of these alone would do: recipe.parallelism.dataParallel 2",
        "alone: pipeline [], dataParallel [2], shard [], tensor []",
    ),
    MistakeCase(
        "a pipeline that the ranks do not fill",
        changed(in_job(f"{RECIPE}.parallelism", {"pipeline": 2}), f"{TRAIN}.numNodes", 3),
        TRAIN,
        "(dataParallel may be left out)",
        "; each of these alone would do: recipe.parallelism.pipeline 3; numNodes 2, 4 or 8",
        "alone: pipeline [3], dataParallel [], shard [], tensor []",
    ),
    MistakeCase(
        "a batch that the pipelines do not divide",
        changed(in_job(f"{RECIPE}.parallelism", {"pipeline": 2}), f"{TRAIN}.numNodes", 6),
        TRAIN,
        "by parallelism.pipeline)",
        "would do: recipe.parallelism.pipeline 3; recipe.batch.globalBatchSize 6 or 12; numNodes 2, 4 or 8",
        "alone: globalBatchSize [6, 12], pipeline [3], dataParallel [], shard [], tensor []",
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
        "and 1 for HuggingFace and Import)",
        "no other value of one setting would do; these two together would: recipe.parallelism.pipeline 1 with "
        "recipe.batch.globalBatchSize 10",
        "alone: pipeline [], dataParallel [], shard [], tensor []; costopt validate looks at all settings",
    ),
    MistakeCase(
        "ranks for which no degree was chosen",
        changed(in_job(f"{RECIPE}.parallelism", {"shard": 4}), f"{TRAIN}.numNodes", 6),
        TRAIN,
        "must be the number of ranks",
        "no other pipeline, dataParallel, shard or tensor would do; each of these alone would: numNodes 4",
    ),
    MistakeCase(
        "heads that the tensor ranks do not divide",
        changed(in_job(f"{RECIPE}.parallelism", {"tensor": 3}), f"{TRAIN}.numNodes", 3),
        TRAIN,
        "recipe.parallelism.tensor must divide decoderLM.numHeads, decoderLM.numKeyValueHeads, with sequenceParallel "
        "the tokens of a sample as well (and be more than 1), and be 1 for other models; HuggingFace takes it where "
        "its model has a plan for it, without sequenceParallel",
        "two together would: recipe.parallelism.tensor 1 with recipe.parallelism.pipeline 3",
    ),
    MistakeCase(
        "fewer key-value heads than tensor ranks",
        in_split_job({"tensor": 8}, numHeads=32, numKeyValueHeads=4, embeddingDim=256),
        TRAIN,
        "recipe.parallelism.tensor must divide",
        "; each of these alone would do: recipe.parallelism.tensor 1, 2 or 4",
        "shard [], tensor [1, 2, 4]",
    ),
    MistakeCase(
        "tensor ranks that leave the shards no ranks",
        in_split_job({"tensor": 4, "shard": 6}, numHeads=6, embeddingDim=96),
        TRAIN,
        "recipe.parallelism.tensor must divide",
        "; each of these alone would do: recipe.parallelism.tensor 1 or 2",
        "shard [], tensor [1, 2]",
    ),
    MistakeCase(
        "tokens of a sample that the tensor ranks do not divide",
        in_split_job({"tensor": 8, "sequenceParallel": True}, numHeads=8, contextLength=36),
        TRAIN,
        "recipe.parallelism.tensor must divide",
        "; each of these alone would do: recipe.parallelism.tensor 2 or 4; recipe.parallelism.sequenceParallel false",
        "shard [], tensor [2, 4]",
    ),
    MistakeCase(
        "tensor ranks that split factors",
        in_split_job({"tensor": 2}, rank=8),
        TRAIN,
        "recipe.parallelism.tensor must divide",
        "; each of these alone would do: recipe.parallelism.tensor 1",
        "shard [], tensor [1]",
    ),
    MistakeCase(
        "a split by tensors in which positions are parted by a plan of others",
        changed(
            in_split_job({"tensor": 2, "sequenceParallel": True}),
            f"{RECIPE}.model",
            {"type": "HuggingFace", "huggingFace": {"path": "a"}},
        ),
        TRAIN,
        "HuggingFace takes it where its model has a plan for it, without sequenceParallel",
        "no other tensor would do; each of these alone would: recipe.parallelism.sequenceParallel false",
        "tensor []",
    ),
    MistakeCase(
        "more interleaved stages than layers",
        in_split_job({"pipeline": 8, "schedule": "Interleaved", "stagesPerRank": 3}, numLayers=12),
        TRAIN,
        "must be at most the layers of the model",
        "would do: recipe.parallelism.pipeline 1, 2, 3 or 4; recipe.parallelism.stagesPerRank 1",
        "alone: pipeline [1, 2, 3, 4], dataParallel [], shard [], tensor []",
    ),
    MistakeCase(
        "tensor ranks in a pipeline",
        changed(in_job(f"{RECIPE}.parallelism", {"tensor": 2, "pipeline": 2}), f"{TRAIN}.numNodes", 4),
        f"{RECIPE}.parallelism",
        "tensor and pipeline must not both be greater than 1",
    ),
    MistakeCase(
        "states carried from sample to sample by ranks that hold some layers each",
        changed(
            changed(
                in_job(f"{RECIPE}.model", {"type": "LSTM", "lstm": {"carryState": True}}),
                f"{RECIPE}.parallelism",
                {"pipeline": 2},
            ),
            f"{TRAIN}.numNodes",
            2,
        ),
        RECIPE,
        "parallelism.shard and parallelism.pipeline must be 1 with model.lstm.carryState",
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
        in_job(f"{RECIPE}.optimizer", {"type": "Adam"}),
        f"{RECIPE}.optimizer.type",
        'Unsupported value: "Adam": supported values: "AdamW", "SGD", "Lion"',
    ),
    MistakeCase(
        "gradients clipped in two ways",
        in_job(f"{RECIPE}.optimizer", {"gradientClipNorm": "1.5", "gradientClipValue": "0.5"}),
        f"{RECIPE}.optimizer",
        "gradientClipNorm must not be set beside gradientClipValue: gradients are clipped in one way",
    ),
    MistakeCase(
        "gradients clipped to nothing",
        in_job(f"{RECIPE}.optimizer", {"gradientClipValue": "0"}),
        f"{RECIPE}.optimizer",
        "gradientClipValue must be more than 0; leave it out to clip the norm",
    ),
    MistakeCase(
        "a group without parameters",
        in_job(f"{RECIPE}.optimizer", {"groups": [{"parameters": []}]}),
        f"{RECIPE}.optimizer.groups[0].parameters",
        "should have at least 1 items",
    ),
    MistakeCase(
        "settings of another optimizer",
        in_job(f"{RECIPE}.optimizer", {"type": "Lion", "sgd": {"momentum": "0.5"}}),
        f"{RECIPE}.optimizer",
        "only the settings that `type` names may be set",
    ),
    MistakeCase(
        "a momentum of one",
        in_job(f"{RECIPE}.optimizer", {"type": "SGD", "sgd": {"momentum": "1"}}),
        f"{RECIPE}.optimizer.sgd",
        "momentum must be less than 1",
    ),
    MistakeCase(
        "Nesterov's gradient without a momentum",
        in_job(f"{RECIPE}.optimizer", {"type": "SGD", "sgd": {"momentum": "0", "nesterov": True}}),
        f"{RECIPE}.optimizer.sgd",
        "nesterov needs a momentum of more than 0",
    ),
    MistakeCase(
        "a beta of one, of another optimizer",
        in_job(f"{RECIPE}.optimizer", {"type": "Lion", "lion": {"beta2": "1"}}),
        f"{RECIPE}.optimizer.lion",
        "beta1 and beta2 must be less than 1",
    ),
    MistakeCase(
        "a decay of means that grows",
        in_job(f"{RECIPE}.optimizer", {"type": "Adafactor", "adafactor": {"beta2Decay": "1.5"}}),
        f"{RECIPE}.optimizer.adafactor",
        "beta2Decay must be at most 1, and clipThreshold at least 1",
    ),
    MistakeCase(
        "a momentum of one, of Muon",
        in_job(f"{RECIPE}.optimizer", {"type": "Muon", "muon": {"momentum": "1.0"}}),
        f"{RECIPE}.optimizer.muon",
        "momentum must be less than 1",
    ),
    MistakeCase(
        "8-bit states of shared-out weights",
        changed(
            changed(in_job(f"{TRAIN}.numNodes", 2), f"{RECIPE}.parallelism", {"shard": 2}),
            f"{RECIPE}.optimizer",
            {"type": "AdamW8bit"},
        ),
        RECIPE,
        "parallelism.shard and parallelism.tensor must be 1 with the optimizers Adafactor and AdamW8bit",
    ),
    MistakeCase(
        "Muon in host memory",
        changed(
            in_job(f"{RECIPE}.parallelism", {"offloadToCpu": True}),
            f"{RECIPE}.optimizer",
            {"type": "Muon"},
        ),
        RECIPE,
        "parallelism.offloadToCpu must be false with the optimizers Adafactor, AdamW8bit and Muon",
    ),
    *(
        MistakeCase(
            f"{optimizer} in host memory",
            changed(
                in_job(f"{RECIPE}.parallelism", {"offloadToCpu": True}), f"{RECIPE}.optimizer", {"type": optimizer}
            ),
            RECIPE,
            "parallelism.offloadToCpu must be false with the optimizers Adafactor, AdamW8bit and Muon",
        )
        for optimizer in ("Adafactor", "AdamW8bit")
    ),
    MistakeCase(
        "host memory for states that no ranks share out",
        in_job(f"{RECIPE}.parallelism", {"offloadToCpu": True}),
        RECIPE,
        "parallelism.offloadToCpu must be false unless parallelism.shard is more than 1",
        "; each of these alone would do: recipe.parallelism.shard 2; recipe.parallelism.offloadToCpu false",
    ),
    MistakeCase(
        "Muon for weights that stay zero",
        changed(
            in_job(f"{RECIPE}.model", {"type": "LSTM", "lstm": {"sparsity": {"percent": 50}}}),
            f"{RECIPE}.optimizer",
            {"type": "Muon"},
        ),
        RECIPE,
        "the model's sparsity must be left out with the optimizer Muon, whose steps fill the zeros",
    ),
    MistakeCase(
        "an average that keeps all",
        in_job(f"{RECIPE}.ema", {"decay": "1"}),
        f"{RECIPE}.ema",
        "decay must be less than 1",
    ),
    MistakeCase(
        "all of a label smoothed away",
        in_job(f"{RECIPE}.labelSmoothingPercent", 100),
        f"{RECIPE}.labelSmoothingPercent",
        "should be less than or equal to 99",
    ),
    MistakeCase(
        "an unknown schedule",
        in_job(f"{RECIPE}.schedule", {"type": "Staircase"}),
        f"{RECIPE}.schedule.type",
        'Unsupported value: "Staircase": supported values: "Cosine", "Linear", "Constant"',
    ),
    MistakeCase(
        "settings of another schedule",
        in_job(f"{RECIPE}.schedule", {"type": "Linear", "oneCycle": {"risePercent": 20}}),
        f"{RECIPE}.schedule",
        "only the settings that `type` names may be set",
    ),
    MistakeCase(
        "one cycle with a warm-up",
        in_job(f"{RECIPE}.schedule", {"type": "OneCycle", "warmupSteps": 4}),
        f"{RECIPE}.schedule",
        "warmupSteps must be 0 with OneCycle, whose rise is its warm-up: set oneCycle.risePercent",
    ),
    MistakeCase(
        "a constant rate with a lowest one",
        in_job(f"{RECIPE}.schedule", {"type": "Constant", "minLearningRate": "0.001"}),
        f"{RECIPE}.schedule",
        'minLearningRate must be "0" with Constant, which does not fall',
    ),
    MistakeCase(
        "warm-up and decay longer than training",
        in_job(
            f"{RECIPE}.schedule",
            {"type": "WarmupStableDecay", "warmupSteps": 30, "warmupStableDecay": {"decaySteps": 11}},
        ),
        RECIPE,
        "schedule.warmupSteps and warmupStableDecay.decaySteps must together be at most totalSteps",
    ),
    MistakeCase(
        "a plateau that raises the rate",
        in_job(f"{RECIPE}.schedule", {"type": "ReduceOnPlateau", "reduceOnPlateau": {"factor": "1.5"}}),
        f"{RECIPE}.schedule.reduceOnPlateau",
        "factor must be more than 0 and less than 1",
    ),
    MistakeCase(
        "settings of a plateau for a cosine",
        in_job(f"{RECIPE}.schedule", {"reduceOnPlateau": {"factor": "0.5"}}),
        f"{RECIPE}.schedule",
        "only the settings that `type` names may be set",
    ),
    MistakeCase(
        "accuracy of a model that tells no classes",
        in_job(f"{RECIPE}.earlyStopping", {"metric": "Accuracy"}),
        RECIPE,
        "earlyStopping.metric Accuracy or MacroF1 must not be set if data.type is Text or",
    ),
    MistakeCase(
        "an improvement of more than everything",
        in_job(
            RECIPE,
            {
                "model": {"type": "ConvNet"},
                "data": {"type": "Images", "images": {"path": "a"}},
                "batch": {"globalBatchSize": 64, "microBatchSize": 1},
                "totalSteps": 40,
                "earlyStopping": {"metric": "MacroF1", "leastImprovement": "2000"},
            },
        ),
        f"{RECIPE}.earlyStopping",
        "leastImprovement must be at most 1000 with metric Accuracy or MacroF1, which are per mille",
    ),
    MistakeCase(
        "no patience",
        in_job(f"{RECIPE}.earlyStopping", {"patienceEvaluations": 0}),
        f"{RECIPE}.earlyStopping.patienceEvaluations",
        f"{RECIPE}.earlyStopping.patienceEvaluations in body should be greater than or equal to 1",
    ),
    MistakeCase(
        "a largest batch that is smaller than the first",
        in_job(
            f"{RECIPE}.batch",
            {"globalBatchSize": 64, "microBatchSize": 1, "auto": {"largest": 32, "afterSteps": 1, "measureSteps": 2}},
        ),
        f"{RECIPE}.batch",
        "auto.largest must be at least globalBatchSize",
    ),
    MistakeCase(
        "both steps and epochs",
        in_job(f"{RECIPE}.epochs", 3),
        RECIPE,
        "exactly one of totalSteps (steps) and epochs (times through the training samples) must be set",
    ),
    MistakeCase(
        "neither steps nor epochs",
        in_job(f"{RECIPE}.totalSteps", REMOVED),
        RECIPE,
        "exactly one of totalSteps (steps) and epochs (times through the training samples) must be set",
    ),
    MistakeCase(
        "no epochs",
        changed(in_job(f"{RECIPE}.totalSteps", REMOVED), f"{RECIPE}.epochs", "0.0"),
        RECIPE,
        "epochs must be more than 0, and at most 1,000,000",
    ),
    MistakeCase(
        "epochs in words",
        changed(in_job(f"{RECIPE}.totalSteps", REMOVED), f"{RECIPE}.epochs", "two"),
        f"{RECIPE}.epochs",
        "spec.train.recipe.epochs in body should match '^[0-9]{1,7}([.][0-9]{1,6})?$'",
        'it must be a number of epochs such as 3 or "1.5"',
    ),
    MistakeCase(
        "epochs of a batch that is found by measuring",
        changed(
            changed(in_job(f"{RECIPE}.totalSteps", REMOVED), f"{RECIPE}.epochs", "1.5"),
            f"{RECIPE}.batch.auto",
            {"largest": 4096, "afterSteps": 1, "measureSteps": 1},
        ),
        RECIPE,
        "batch.auto must not be set with epochs",
    ),
    MistakeCase(
        "a batch measured for longer than training takes",
        in_job(f"{RECIPE}.batch", {"globalBatchSize": 8, "microBatchSize": 1, "auto": {"largest": 32}}),
        RECIPE,
        "batch.auto: afterSteps and measureSteps together must be less than totalSteps",
    ),
    MistakeCase(
        "a batch of one size to measure",
        in_job(
            f"{RECIPE}.batch",
            {"globalBatchSize": 8, "microBatchSize": 4, "auto": {"largest": 32, "afterSteps": 1, "measureSteps": 2}},
        ),
        TRAIN,
        "recipe.batch.globalBatchSize must be at least twice microBatchSize times the data-parallel ranks",
    ),
    MistakeCase(
        "a batch of another size in a pipeline",
        changed(
            in_job(
                f"{RECIPE}.batch",
                {
                    "globalBatchSize": 8,
                    "microBatchSize": 1,
                    "auto": {"largest": 32, "afterSteps": 1, "measureSteps": 2},
                },
            ),
            f"{RECIPE}.parallelism",
            {"pipeline": 2},
        ),
        RECIPE,
        "batch.auto must not be set with parallelism.pipeline",
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
        "ConvNet or ResNet or Import with data Images needs Images",
    ),
    MistakeCase(
        "text without labels for a classifier",
        in_job(f"{RECIPE}.model", {"type": "Encoder", "encoder": {"task": "Classification"}}),
        RECIPE,
        "Import with data LabelledText needs data.type LabelledText",
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
        "Import with data LabelledText needs data.type LabelledText",
    ),
    MistakeCase(
        "data at no place",
        in_job(f"{RECIPE}.data", {"type": "Text", "text": {"include": "*.md"}}),
        f"{RECIPE}.data.text",
        "exactly one of path (one place) and paths (several) must be set",
    ),
    MistakeCase(
        "data at a place and at several",
        in_job(f"{RECIPE}.data", {"type": "Records", "records": {"path": "a.jsonl", "paths": ["b.jsonl"]}}),
        f"{RECIPE}.data.records",
        "exactly one of path (one place) and paths (several) must be set",
    ),
    MistakeCase(
        "a password in a URL",
        in_job(f"{RECIPE}.data", {"type": "Text", "text": {"path": "https://me:secret@example.com/a.txt"}}),
        f"{RECIPE}.data.text",
        "a URL must not hold a password, token or signature",
    ),
    MistakeCase(
        "a signature in one URL of several",
        in_job(
            f"{RECIPE}.data",
            {
                "type": "Records",
                "records": {"paths": ["a.jsonl", "https://example.com/a.jsonl?download=1&X-Amz-Signature=77"]},
            },
        ),
        f"{RECIPE}.data.records",
        "a URL must not hold a password, token or signature",
    ),
    MistakeCase(
        "keys of a bucket in its URL",
        in_job(
            RECIPE,
            {
                "model": {"type": "ConvNet"},
                "data": {"type": "Images", "images": {"path": "s3://AKIA1:abc/def@bucket/a.npz"}},
                "batch": {"globalBatchSize": 64, "microBatchSize": 1},
                "totalSteps": 40,
            },
        ),
        f"{RECIPE}.data.images",
        "a URL must not hold a password, token or signature",
    ),
    MistakeCase(
        "a template beside several",
        in_job(
            f"{RECIPE}.data",
            {"type": "Records", "records": {"path": "a", "template": "{a}", "templates": ["{a}", "{b}"]}},
        ),
        f"{RECIPE}.data.records",
        "template and templates must not both be set",
    ),
    MistakeCase(
        "a field of text beside a template",
        in_job(
            f"{RECIPE}.data", {"type": "Records", "records": {"path": "a", "textField": "text", "template": "{text}"}}
        ),
        f"{RECIPE}.data.records",
        "textField must not be set beside template or templates",
    ),
    MistakeCase(
        "a tokenizer for tokens",
        in_job(
            f"{RECIPE}.data",
            {
                "type": "TokenShards",
                "tokenShards": {"path": "a.bin", "vocabularySize": 50257},
                "tokenizer": {"type": "Byte"},
            },
        ),
        f"{RECIPE}.data",
        "transforms and tokenizer must not be set for TokenShards, which are tokens already",
    ),
    MistakeCase(
        "packing of what is not cut from a text",
        changed(
            in_job(f"{RECIPE}.model", {"type": "Encoder", "encoder": {"task": "Classification"}}),
            f"{RECIPE}.data",
            {"type": "LabelledText", "labelledText": {"path": "a"}, "packing": {"boundaries": "Ignore"}},
        ),
        f"{RECIPE}.data",
        "packing must not be set unless type is Text or PythonStandardLibrary or Records or TokenShards",
    ),
    MistakeCase(
        "limits of the cache that limit nothing",
        in_job(f"{RECIPE}.data", {"type": "Text", "text": {"path": "a.txt"}, "cache": {}}),
        f"{RECIPE}.data.cache",
        "maxAgeDays or maxBytes must be set: without them everything stays",
    ),
    MistakeCase(
        "boundaries of documents that nobody knows",
        in_job(
            f"{RECIPE}.data",
            {
                "type": "TokenShards",
                "tokenShards": {"path": "a.bin", "vocabularySize": 50257},
                "packing": {"boundaries": "Loss"},
            },
        ),
        f"{RECIPE}.data",
        "tokenShards.endOfTextToken must be set if packing.boundaries is Loss or Attention",
    ),
    *(
        MistakeCase(
            f"no loss across documents for {model['type']}, which tells hidden tokens",
            changed(in_job(f"{RECIPE}.model", model), f"{RECIPE}.data", PACKED_FOR_LOSS),
            RECIPE,
            "data.packing.boundaries must not be Loss for a model that learns to tell hidden tokens",
        )
        for model in (
            {"type": "Encoder"},
            {"type": "HuggingFace", "huggingFace": {"path": "a", "task": "MaskedLM"}},
            {"type": "Import", "import": {"function": "a:b", "data": "MaskedText"}},
        )
    ),
    MistakeCase(
        "attention within documents of a model that has no way to it",
        changed(
            in_job(f"{RECIPE}.model", {"type": "LSTM"}),
            f"{RECIPE}.data",
            {**PACKED_FOR_LOSS, "packing": {"boundaries": "Attention"}},
        ),
        RECIPE,
        "data.packing.boundaries must be Ignore or Loss unless model.type is DecoderLM",
    ),
    MistakeCase(
        "attention within documents of a model that is cut into stages",
        changed(
            changed(
                in_job(f"{RECIPE}.data", {**PACKED_FOR_LOSS, "packing": {"boundaries": "Attention"}}),
                f"{RECIPE}.parallelism",
                {"pipeline": 2},
            ),
            f"{TRAIN}.numNodes",
            2,
        ),
        RECIPE,
        "parallelism.pipeline must be 1 if data.packing.boundaries is Attention",
    ),
    MistakeCase(
        "an end of text beyond the vocabulary",
        in_job(
            f"{RECIPE}.data",
            {"type": "TokenShards", "tokenShards": {"path": "a", "vocabularySize": 50256, "endOfTextToken": 50256}},
        ),
        f"{RECIPE}.data.tokenShards",
        "endOfTextToken must be less than vocabularySize",
    ),
    MistakeCase(
        "a delimiter of what has none",
        in_job(f"{RECIPE}.data", {"type": "Records", "records": {"path": "a.csv", "delimiter": ";"}}),
        f"{RECIPE}.data.records",
        "delimiter must not be set unless format is CSV",
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
        "data.transforms are changes of text and must not be set if data.type is Images or ImageFolder or Table",
    ),
    MistakeCase(
        "changes of images for text",
        in_job(f"{RECIPE}.data.augmentations", [{"type": "TokenDropout"}, {"type": "Flip"}]),
        RECIPE,
        "data.augmentations must be for the samples that the model reads: TokenDropout, SpanCorruption for text or "
        "masked text or labelled text; Reorder, InsertWords, Synonyms for labelled text; Flip,",
    ),
    MistakeCase(
        "changes of documents for text without labels",
        in_job(f"{RECIPE}.data.augmentations", [{"type": "Reorder"}]),
        RECIPE,
        "data.augmentations must be for the samples that the model reads",
    ),
    MistakeCase(
        "augmented samples that go on from one another",
        changed(
            in_job(f"{RECIPE}.model", {"type": "LSTM", "lstm": {"carryState": True}}),
            f"{RECIPE}.data.augmentations",
            [{"type": "TokenDropout"}],
        ),
        RECIPE,
        "data.augmentations must not be set with model.lstm.carryState, whose samples go on from one another",
    ),
    MistakeCase(
        "a flip that flips nothing",
        in_job(
            RECIPE,
            {
                "model": {"type": "ConvNet"},
                "data": {
                    "type": "Images",
                    "images": {"path": "a"},
                    "augmentations": [{"type": "Flip", "flip": {"horizontalPercent": 0}}],
                },
                "batch": {"globalBatchSize": 64, "microBatchSize": 1},
                "totalSteps": 40,
            },
        ),
        f"{RECIPE}.data.augmentations[0].flip",
        "horizontalPercent and verticalPercent must not both be 0",
    ),
    MistakeCase(
        "a loss of images without a model that tells it",
        in_job(
            RECIPE,
            {
                "model": {"type": "ConvNet"},
                "data": {
                    "type": "Images",
                    "images": {"path": "a"},
                    "selection": {"type": "Loss", "keepPercent": 50, "loss": {"keep": "Highest"}},
                },
                "batch": {"globalBatchSize": 64, "microBatchSize": 1},
                "totalSteps": 40,
            },
        ),
        RECIPE,
        "reference.model must be given where a loss is asked for and data.type is Images or ImageFolder or Table, "
        "which has no tokens",
    ),
    MistakeCase(
        "a curriculum of images by loss without a model that tells it",
        in_job(
            RECIPE,
            {
                "model": {"type": "ConvNet"},
                "data": {
                    "type": "Images",
                    "images": {"path": "a"},
                    "order": {"type": "Curriculum", "curriculum": {"steps": 9}},
                },
                "batch": {"globalBatchSize": 64, "microBatchSize": 1},
                "totalSteps": 40,
            },
        ),
        RECIPE,
        "reference.model must be given where a loss is asked for and data.type is Images",
    ),
    MistakeCase(
        "a curriculum by the length of samples that are equally long",
        in_job(f"{RECIPE}.data.order", {"type": "Curriculum", "curriculum": {"by": "Length", "steps": 9}}),
        RECIPE,
        "data.order.curriculum.by must be Loss unless data.type is LabelledText, for other samples have one length",
    ),
    MistakeCase(
        "a part of samples that go on from each other",
        changed(
            in_job(f"{RECIPE}.model", {"type": "LSTM", "lstm": {"carryState": True}}),
            f"{RECIPE}.data.selection",
            {"type": "Random", "keepPercent": 50},
        ),
        RECIPE,
        "data.selection and data.order must not be set with model.lstm.carryState, whose samples go on from each other",
    ),
    MistakeCase(
        "batches of like length where all samples are equally long",
        in_job(f"{RECIPE}.data.order", {"type": "LengthBucketed"}),
        RECIPE,
        "data.order.type LengthBucketed needs data.type LabelledText, compile false, and parallelism.tensor and "
        "parallelism.pipeline 1",
    ),
    MistakeCase(
        "steps on all samples before a reference chooses, which it does before the first",
        in_job(f"{RECIPE}.data.selection", {"type": "Loss", "keepPercent": 50, "loss": {"firstSteps": 9}}),
        f"{RECIPE}.data.selection.loss",
        "firstSteps must be left out unless by is FirstEpoch or ExcessLoss, which learn from all first",
    ),
    MistakeCase(
        "a loss above that of no model",
        in_job(f"{RECIPE}.data.selection", {"type": "Loss", "keepPercent": 50, "loss": {"by": "ExcessLoss"}}),
        f"{RECIPE}.data.selection.loss",
        "reference.model must be given with by ExcessLoss, which is the loss above it, and left out with by FirstEpoch",
    ),
    MistakeCase(
        "the training's own loss, and that of another model",
        in_job(
            f"{RECIPE}.data.selection",
            {"type": "Loss", "keepPercent": 50, "loss": {"by": "FirstEpoch", "reference": {"model": "a"}}},
        ),
        f"{RECIPE}.data.selection.loss",
        "reference.model must be given with by ExcessLoss, which is the loss above it, and left out with by FirstEpoch",
    ),
    *(
        MistakeCase(
            f"own losses {why}",
            changed(
                in_job(f"{RECIPE}.data.selection", {"type": "Loss", "keepPercent": 50, "loss": {"by": "FirstEpoch"}}),
                f"{RECIPE}.{place}",
                value,
            ),
            RECIPE,
            "data.selection.loss.by FirstEpoch or ExcessLoss needs data.order Shuffled, no batch.auto, no "
            "data.mixture, and parallelism.tensor and parallelism.pipeline 1, where each rank has the losses of its",
        )
        for why, place, value in (
            ("of samples that ranks share", "parallelism", {"tensor": 2}),
            ("of samples that go through a pipeline", "parallelism", {"pipeline": 2}),
            ("of easy samples first", "data.order", {"type": "Curriculum", "curriculum": {"by": "Loss", "steps": 9}}),
        )
    ),
    MistakeCase(
        "a selection that keeps everything",
        in_job(f"{RECIPE}.data.selection", {"type": "Random", "keepPercent": 100}),
        f"{RECIPE}.data.selection.keepPercent",
        "should be less than or equal to 99",
    ),
    MistakeCase(
        "a curriculum without its steps",
        in_job(f"{RECIPE}.data.order", {"type": "Curriculum"}),
        f"{RECIPE}.data.order",
        "only the settings that `type` names may be set; required are curriculum for Curriculum",
        "type Curriculum needs curriculum, which is not there",
    ),
    MistakeCase(
        "half a size of images",
        in_job(
            RECIPE,
            {
                "model": {"type": "ConvNet"},
                "data": {"type": "ImageFolder", "imageFolder": {"path": "a", "height": 32}},
                "batch": {"globalBatchSize": 64, "microBatchSize": 1},
                "totalSteps": 40,
            },
        ),
        f"{RECIPE}.data.imageFolder",
        "height and width must be set together",
    ),
    MistakeCase(
        "bounds of quality that nothing meets",
        in_job(
            f"{RECIPE}.data.transforms",
            [{"type": "FilterQuality", "filterQuality": {"minWords": 100, "maxWords": 10}}],
        ),
        f"{RECIPE}.data.transforms[0].filterQuality",
        "minWords must be at most maxWords",
    ),
    MistakeCase(
        "mean lengths of words that nothing meets",
        in_job(
            f"{RECIPE}.data.transforms",
            [{"type": "FilterQuality", "filterQuality": {"minMeanWordLength": 11}}],
        ),
        f"{RECIPE}.data.transforms[0].filterQuality",
        "minMeanWordLength must be at most maxMeanWordLength",
    ),
    MistakeCase(
        "a language filter without languages",
        in_job(f"{RECIPE}.data.transforms", [{"type": "FilterLanguage"}]),
        f"{RECIPE}.data.transforms[0]",
        "only the settings that `type` names may be set; required are filterLanguage for FilterLanguage",
        "type FilterLanguage needs filterLanguage, which is not there",
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
        "only the settings that `type` names may be set; required are",
        "type DecoderLM has its settings in decoderLM, but convNet, which is for ConvNet, stands here",
    ),
    MistakeCase(
        "settings of another data type",
        in_job(f"{RECIPE}.data.type", "PythonStandardLibrary"),
        f"{RECIPE}.data",
        "only the settings that `type` names may be set; required are",
        "but text, which is for Text, stands here",
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
        "factors that are no smaller than the matrix of a bottleneck",
        in_job(f"{RECIPE}.model", {"type": "Encoder", "encoder": {"bottleneckDim": 32, "rank": 16}}),
        f"{RECIPE}.model.encoder",
        "rank must be so small that two factors have fewer weights than the matrix: less than half of embeddingDim (or",
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
        "removing all weights",
        in_job("spec.compress.0.steps.0", _prune(percent=100)),
        "spec.compress[0].steps[0].prune",
        "percent must be at most 99: of 100 nothing would be left",
    ),
    MistakeCase(
        "single weights of certain parts",
        in_job("spec.compress.0.steps.0", _prune(of=["Heads"])),
        "spec.compress[0].steps[0].prune",
        "of needs structure Structured: single weights are of all layers",
    ),
    MistakeCase(
        "channels of all layers in one order",
        in_job("spec.compress.0.steps.0", _prune(structure="Structured", scope="Global")),
        "spec.compress[0].steps[0].prune",
        "scope Global needs structure Unstructured: channels of two layers cannot be compared",
    ),
    MistakeCase(
        "rounds of pruning with nothing in between",
        in_job("spec.compress.0.steps.0", _prune(rounds=3)),
        "spec.compress[0].steps[0].prune",
        "rounds and learningRate need fineTuneSteps: without training between them all rounds are one",
    ),
    MistakeCase(
        "a calibration of what has no ranges",
        in_job("spec.compress.0.steps.0.quantize", {"scheme": "Int8WeightOnly", "calibration": {"samples": 8}}),
        "spec.compress[0].steps[0].quantize",
        "calibration needs scheme Int8Static, rounding GPTQ or smoothPercent",
    ),
    MistakeCase(
        "training for a rounding that another one replaces",
        in_job(
            "spec.compress.0.steps.0.quantize", {"scheme": "Int4WeightOnly", "rounding": "GPTQ", "fineTuneSteps": 8}
        ),
        "spec.compress[0].steps[0].quantize",
        "fineTuneSteps needs rounding Nearest and scheme Int8WeightOnly, Int8DynamicActivation or Int4WeightOnly",
    ),
    MistakeCase(
        "training with ranges that are found afterwards",
        in_job("spec.compress.0.steps.0.quantize", {"scheme": "Int8Static", "fineTuneSteps": 8}),
        "spec.compress[0].steps[0].quantize",
        "fineTuneSteps needs rounding Nearest and scheme Int8WeightOnly, Int8DynamicActivation or Int4WeightOnly",
    ),
    MistakeCase(
        "8-bit floats of activations for a CPU",
        in_job("spec.compress.0", {"name": "a", "target": "CPU", "steps": [_quantize("Float8DynamicActivation")]}),
        "spec.compress[0]",
        "target must not be CPU for scheme Float8DynamicActivation, which only a GPU computes",
    ),
    MistakeCase(
        "8-bit floats as ONNX",
        in_job("spec.compress.0", {"name": "a", "formats": ["Onnx"], "steps": [_quantize("Float8WeightOnly")]}),
        "spec.compress[0]",
        "formats must not have Onnx for a Float8 scheme, which only torch has",
    ),
    MistakeCase(
        "a rate of no training",
        in_job("spec.compress.0.steps.0.quantize", {"scheme": "Int8WeightOnly", "learningRate": "0.001"}),
        "spec.compress[0].steps[0].quantize",
        "learningRate needs fineTuneSteps",
    ),
    MistakeCase(
        "smoothing activations that stay whole",
        in_job("spec.compress.0.steps.0.quantize", {"scheme": "Int8WeightOnly", "smoothPercent": 50}),
        "spec.compress[0].steps[0].quantize",
        "smoothPercent needs scheme Int8DynamicActivation or Int8Static: others keep activations whole",
    ),
    MistakeCase(
        "a folder for compressed-tensors of what has no 8-bit weights",
        in_job("spec.compress.1.formats", ["CompressedTensors"]),
        "spec.compress[1]",
        "formats CompressedTensors needs a Quantize step of scheme Int8WeightOnly without embeddings",
    ),
    MistakeCase(
        "groups of 8-bit weights",
        in_job("spec.compress.0.steps.0.quantize", {"scheme": "Int8WeightOnly", "groupSize": 32}),
        "spec.compress[0].steps[0].quantize",
        "groupSize and rounding GPTQ need scheme Int4WeightOnly",
    ),
    MistakeCase(
        "a size of groups that no kernel has",
        in_job("spec.compress.0.steps.0.quantize", {"scheme": "Int4WeightOnly", "groupSize": 48}),
        "spec.compress[0].steps[0].quantize",
        "groupSize must be 16, 32, 64, 128 or 256",
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
        "name must not be 'model', 'adapter' or 'rejected'",
    ),
    MistakeCase(
        "a variant with the name of the folder of rejected ones",
        in_job("spec.compress.0.name", "rejected"),
        "spec.compress[0]",
        "name must not be 'model', 'adapter' or 'rejected'",
    ),
    MistakeCase(
        "a variant that is measured in no time",
        in_job("spec.compress.0.measureSeconds", 0),
        "spec.compress[0].measureSeconds",
        "6",
    ),
    MistakeCase(
        "a bound of quality that is less than nothing",
        in_job("spec.compress.0.accept", {"maxQualityDropPercent": "-1"}),
        "spec.compress[0].accept.maxQualityDropPercent",
        "Invalid value",
    ),
    MistakeCase(
        "an accuracy where no classes are told",
        in_job("spec.compress.0.accept", {"metric": "Accuracy"}),
        "spec",
        "accept.metric must be Loss where the data tells no classes",
    ),
    MistakeCase(
        "steps that are given and to be found",
        in_job("spec.compress.0.auto", {"minimize": "Bytes"}),
        "spec.compress[0]",
        "exactly one of steps and auto must be set",
    ),
    MistakeCase(
        "no steps at all",
        in_job("spec.compress.0.steps", []),
        "spec.compress[0]",
        "exactly one of steps and auto must be set",
    ),
    MistakeCase(
        "a search in which nothing is tried",
        in_job("spec.compress.0", {"name": "best", "auto": {"minimize": "Bytes", "trials": 0}}),
        "spec.compress[0].auto.trials",
        "spec.compress[0].auto.trials in body should be greater than or equal to 1",
    ),
    MistakeCase(
        "passes that cost nothing",
        in_job("spec.compress.0", {"name": "best", "auto": {"minimize": "Latency", "batches": 9}}),
        "spec.compress[0].auto",
        "batches must be set for minimize Cost only",
    ),
    MistakeCase(
        "a search that is shorter than one trial",
        in_job("spec.compress.0", {"name": "best", "auto": {"minimize": "Bytes", "seconds": 60}}),
        "spec.compress[0]",
        "auto.seconds must be at least measureSeconds",
    ),
    MistakeCase(
        "factors of two sizes",
        in_job("spec.compress.0.steps", [{"type": "LowRank", "lowRank": {"percent": 50, "energyPercent": 90}}]),
        "spec.compress[0].steps[0].lowRank",
        "exactly one of percent (of weights) and energyPercent (of outputs) must be set",
    ),
    MistakeCase(
        "weights that are shared in no way",
        in_job("spec.compress.0.steps", [{"type": "ShareWeights", "shareWeights": {}}]),
        "spec.compress[0].steps[0].shareWeights",
        "exactly one of layers and clusterBits must be set",
    ),
    MistakeCase(
        "clusters that a step behind them would part",
        in_job("spec.compress.0.steps", [CLUSTERS, {"type": "LowRank", "lowRank": {"percent": 50}}]),
        "spec.compress[0]",
        "a ShareWeights step with clusterBits must be the last of a variant's steps",
    ),
    MistakeCase(
        "clusters before layers that share weights",
        in_job("spec.compress.0.steps", [CLUSTERS, {"type": "ShareWeights", "shareWeights": {"layers": 2}}]),
        "spec.compress[0]",
        "a ShareWeights step with clusterBits must be the last of a variant's steps",
    ),
    MistakeCase(
        "a variant that is timed with no samples",
        in_job("spec.compress.0.measure", {"batchSizes": [0]}),
        "spec.compress[0].measure.batchSizes[0]",
        "greater than or equal to 1",
    ),
    MistakeCase(
        "a variant that is timed at too many lengths",
        in_job("spec.compress.0.measure", {"sequenceLengths": [1, 2, 3, 4, 5]}),
        "spec.compress[0].measure.sequenceLengths",
        "4 items",
    ),
    MistakeCase(
        "a model of the Hugging Face library that is nowhere",
        in_job(f"{RECIPE}.model", {"type": "HuggingFace"}),
        f"{RECIPE}.model",
        "only the settings that `type` names may be set; required are huggingFace for HuggingFace, import for Import",
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
        "a function without its module",
        in_job(f"{RECIPE}.model", {"type": "Import", "import": {"function": "build"}}),
        f"{RECIPE}.model.import.function",
        "spec.train.recipe.model.import.function in body should match",
        "it must be a module and a function in it, such as package.module:function",
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
        "(pipeline times stagesPerRank) must be at most the layers of the model (",
    ),
    MistakeCase(
        "positions shared out in a model that is split by its own plan",
        changed(
            in_job(f"{RECIPE}.model", {"type": "HuggingFace", "huggingFace": {"path": "a"}}),
            f"{RECIPE}.parallelism",
            {"tensor": 2, "sequenceParallel": True},
        ),
        TRAIN,
        "HuggingFace takes it where its model has a plan for it, without sequenceParallel",
    ),
    *(
        MistakeCase(
            f"positions shared out among one rank, of a model of type {model['type']}",
            changed(in_job(f"{RECIPE}.model", model), f"{RECIPE}.parallelism", {"sequenceParallel": True}),
            TRAIN,
            "with sequenceParallel the tokens of a sample as well (and be more than 1)",
            advice,
        )
        for model, advice in (
            ({"type": "DecoderLM"}, "would do: recipe.parallelism.tensor 2; recipe.parallelism.sequenceParallel false"),
            (
                {"type": "HuggingFace", "huggingFace": {"path": "a"}},
                "no other tensor would do; each of these alone would: recipe.parallelism.sequenceParallel false",
            ),
            ({"type": "LSTM"}, "no other tensor would do"),
        )
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
        "a fine-tuning that is over before its warm-up",
        in_job("spec.compress.0.steps.0", {"type": "FineTune", "fineTune": {"steps": 10, "warmupSteps": 10}}),
        "spec.compress[0].steps[0].fineTune",
        "warmupSteps must be less than steps",
    ),
    MistakeCase(
        "a lighter student without its settings",
        in_job("spec.compress.0.steps.0", {"type": "Distill", "distill": {"steps": 10, "student": "Lighter"}}),
        "spec.compress[0].steps[0].distill",
        "lighter must be set for student Lighter, and for no other",
    ),
    MistakeCase(
        "a graph for a GPU",
        in_job(
            "spec.compress.0",
            {
                "name": "int4",
                "target": "GPU",
                "steps": [_quantize("Int4WeightOnly")],
                "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 1, "memory": "1Gi"}},
            },
        ),
        "spec.compress[0]",
        "target must be CPU or Auto for Int8Static, Int4WeightOnly and formats Onnx",
    ),
    MistakeCase(
        "a graph as a program of torch",
        changed(
            in_job("spec.compress.0.formats", ["TorchExport"]), "spec.compress.0.steps.0", _quantize("Int4WeightOnly")
        ),
        "spec.compress[0]",
        "formats must not have TorchExport with Int8Static or Int4WeightOnly",
    ),
    MistakeCase(
        "a variant for a GPU that nothing asks for",
        in_job("spec.compress.0.target", "GPU"),
        "spec",
        "compress must ask for nvidia.com/gpu in the resources of a variant whose target is GPU",
    ),
    MistakeCase(
        "a step that trains a model that is given",
        in_given_job("spec.compress.0.steps.0", {"type": "FineTune", "fineTune": {"steps": 10}}),
        "spec",
        "compress must not have steps that train (FineTune, Distill, and others with fineTuneSteps) where no recipe",
    ),
    MistakeCase(
        "training between the rounds of a pruned model that is given",
        in_given_job("spec.compress.0.steps.0", _prune(rounds=2, fineTuneSteps=5)),
        "spec",
        "nothing is known of how the model was trained",
    ),
    MistakeCase(
        "compressing the model of a command without data to measure it on",
        changed(in_job(f"{TRAIN}.command", ["python"]), RECIPE, REMOVED),
        "spec",
        "compress needs evaluation.data where train has no recipe",
    ),
    MistakeCase(
        "other data than the recipe's to measure its model on",
        plain_job(evaluation=ON_TEXT),
        "spec",
        "evaluation must not be set with train.recipe, which has its own data",
    ),
    MistakeCase(
        "images for a command's model",
        in_command_job("spec.evaluation.data", {"type": "Images", "images": {"path": "images.npz"}}),
        "spec",
        "evaluation.data.type must be Text or PythonStandardLibrary or Records or TokenShards or LabelledText for the "
        "model of a command",
    ),
    MistakeCase(
        "neither a training nor a model",
        changed(plain_job(compress=[]), TRAIN, REMOVED),
        "spec",
        "exactly one of train (what trains it) and model (one that is there already) must be set",
    ),
    MistakeCase(
        "a model besides a training",
        in_command_job("spec.model", {"path": "/models/tiny"}),
        "spec",
        "exactly one of train (what trains it) and model (one that is there already) must be set",
    ),
    MistakeCase(
        "a model without a variant to make of it",
        in_given_job("spec.compress", []),
        "spec",
        "compress must hold a variant where model is set, and each its own resources",
    ),
    MistakeCase(
        "a variant of a given model without resources",
        in_given_job("spec.compress.1.resources", REMOVED),
        "spec",
        "compress must hold a variant where model is set, and each its own resources",
    ),
    MistakeCase(
        "a given model that is measured on nothing",
        in_given_job("spec.evaluation", REMOVED),
        "spec",
        "compress needs evaluation.data where train has no recipe: what its model is measured on",
    ),
    MistakeCase(
        "images for a task of text",
        in_given_job(
            "spec.evaluation",
            {"task": "CausalLM", "data": {"type": "Images", "images": {"path": "images.npz"}}},
        ),
        "spec.evaluation",
        "data.type must be Text or PythonStandardLibrary or Records or TokenShards for task CausalLM",
    ),
    MistakeCase(
        "text for a classifier of a command's",
        in_command_job("spec.evaluation.task", "SequenceClassification"),
        "spec.evaluation",
        "data.type must be Text or PythonStandardLibrary or Records or TokenShards for task CausalLM",
    ),
    MistakeCase(
        "a task of a command's model that is none",
        in_command_job("spec.evaluation.task", "Translation"),
        "spec.evaluation.task",
        'Unsupported value: "Translation": supported values: "CausalLM", "MaskedLM", "SequenceClassification"',
    ),
    *(
        MistakeCase(
            f"{field} where nothing is trained",
            in_command_job(f"spec.evaluation.data.{field}", value),
            f"spec.evaluation.data.{field}",
            f'unknown field "spec.evaluation.data.{field}"',
            "it does nothing here, where no sample is trained on: leave it out",
        )
        for field, value in (
            ("augmentations", [{"type": "TokenDropout", "tokenDropout": {"percent": 10}}]),
            ("selection", {"type": "Random", "keepPercent": 50}),
            ("order", {"type": "Shuffled"}),
            ("workers", 2),
        )
    ),
    MistakeCase(
        "a command's model that is to keep to its document",
        in_command_job("spec.evaluation.data.packing", {"boundaries": "Attention"}),
        "spec.evaluation",
        "data.packing.boundaries must be Ignore or Loss: a model of the Hugging Face library",
    ),
    MistakeCase(
        "the next token of a command's model that tells hidden ones",
        in_command_job("spec.evaluation", {"data": PACKED_FOR_LOSS, "task": "MaskedLM"}),
        "spec.evaluation",
        "data.packing.boundaries must not be Loss for task MaskedLM",
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
    *SAMPLE_MISTAKES,
    *POD_MISTAKES,
    *MIXTURE_MISTAKES,
]

COMMAND = plain_command_job()["spec"]

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
            ("evaluation", COMMAND, {**COMMAND, "evaluation": {**ON_TEXT, "maxSamples": 64}}),
            ("storage", {}, {"storage": {"claimName": "shared"}}),
            ("storage", {"storage": {"claimName": "shared"}}, {}),
            ("storage", {"storage": {"create": {"size": "1Gi"}}}, {"storage": {"create": {"size": "2Gi"}}}),
            ("pods", {"pods": {"labels": {"team": "a"}}}, {"pods": {"labels": {"team": "b"}}}),
            ("pods", {"pods": {"affinity": {"x": [{"y": 1}]}}}, {"pods": {"affinity": {"x": [{"y": 2}]}}}),
            ("priceBookName", {}, {"priceBookName": "other"}),
        )
    ),
    ChangeCase(
        "another model to compress",
        plain_given_job(),
        in_given_job("spec.model.path", "/models/other"),
        "model cannot be changed after creation; create another job",
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
