"""Mistakes in samples and in how they are learned from, which a trainer would find only once it has its data."""

from typing import Any

from builders.documents import RECIPE, MistakeCase, changed, in_job

DATA = f"{RECIPE}.data"
RECORDS = {"type": "Records", "records": {"path": "a.jsonl"}}
TOKENS = {"path": "a.bin", "vocabularySize": 50257, "endOfTextToken": 50256}
IN_BRACES = "it must hold the name of at least one field in braces, such as {question}"
NOT_MASK = "replacement of TokenDropout and SpanCorruption must be Random or Previous, not Mask"
ONE_TOKENIZER = (
    "all sources of data.mixture must have one tokenizer: the vocabularySize of each tokenShards must be the same"
)
PIXELS = "height and width of data.imageFolder must be at least 2 to the power of model.convNet.numStages"


def labels(*names: str) -> dict[str, Any]:
    settings = {"path": "a.jsonl", "labels": list(names)}
    encoder = in_job(f"{RECIPE}.model", {"type": "Encoder", "encoder": {"task": "Classification"}})
    return changed(encoder, DATA, {"type": "LabelledText", "labelledText": settings})


def mixed(*sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    named = [{"name": f"s{number}", **source} for number, source in enumerate(sources)]
    return in_job(DATA, {"type": "Mixture", "mixture": {"sources": named, **more.pop("mixture", {})}, **more})


def tokens(**more: Any) -> dict[str, Any]:
    return {"tokenShards": TOKENS | more}


def augmented(model: dict[str, Any], augmentation: str, replacement: str, **data: Any) -> dict[str, Any]:
    key = augmentation[0].lower() + augmentation[1:]
    given = {"type": "Text", "text": {"path": "a.txt"}, **data}
    given["augmentations"] = [{"type": augmentation, key: {"replacement": replacement}}]
    return changed(in_job(f"{RECIPE}.model", model), DATA, given)


def pictures(model: dict[str, Any], height: int, width: int, **selection: Any) -> dict[str, Any]:
    folder = {"path": "a", "height": height, "width": width}
    return changed(in_job(f"{RECIPE}.model", model), DATA, {"type": "ImageFolder", "imageFolder": folder, **selection})


def chosen_by(encoder: str) -> dict[str, Any]:
    return {"type": "Representative", "keepPercent": 50, "representative": {"encoder": encoder}}


DECODER = {"type": "DecoderLM"}

SAMPLE_MISTAKES = [
    MistakeCase(
        "a label twice",
        labels("cat", "dog", "cat"),
        f"{DATA}.labelledText.labels[2]",
        'Duplicate value: "cat"',
        "labels must not hold an item twice",
    ),
    MistakeCase("one label", labels("cat"), f"{DATA}.labelledText.labels", "should have at least 2 items"),
    *(
        MistakeCase(
            f"a template {why}",
            in_job(DATA, changed(RECORDS, "records.template", template)),
            f"{DATA}.records.template",
            "spec.train.recipe.data.records.template in body should match '^([^{}]|",
            IN_BRACES,
        )
        for why, template in (
            ("whose brace stays open", "{a"),
            ("with a brace alone", "a}{text}"),
            ("with a conversion", "{text!r}"),
            ("with a form", "{text:9}"),
            ("with a field by its position", "{}"),
            ("without a field", "text"),
            ("whose braces are text", "{{text}}"),
        )
    ),
    MistakeCase(
        "one of several templates without a field",
        in_job(DATA, changed(RECORDS, "records.templates", ["{text}", "text"])),
        f"{DATA}.records.templates[1]",
        "spec.train.recipe.data.records.templates[1] in body should match",
        IN_BRACES,
    ),
    MistakeCase(
        "a language that nobody knows",
        in_job(f"{DATA}.transforms", [{"type": "FilterLanguage", "filterLanguage": {"languages": ["en", "xx"]}}]),
        f"{DATA}.transforms[0].filterLanguage.languages[1]",
        'Unsupported value: "xx": supported values: "ace", "af",',
    ),
    MistakeCase(
        "settings of another transform",
        in_job(f"{DATA}.transforms", [{"type": "FixMojibake", "normalizeUnicode": {}}]),
        f"{DATA}.transforms[0]",
        "only the settings that `type` names may be set",
        "type FixMojibake has its settings in fixMojibake, but normalizeUnicode, which is for NormalizeUnicode, stands",
    ),
    MistakeCase(
        "settings of another order, for one that has none",
        in_job(f"{DATA}.order", {"type": "Shuffled", "lengthBucketed": {}}),
        f"{DATA}.order",
        "only the settings that `type` names may be set",
        "type Shuffled has no settings of its own, but lengthBucketed, which is for LengthBucketed, stands here",
    ),
    *(
        MistakeCase(f"masks where no token stands for one: {why}", document, RECIPE, NOT_MASK)
        for why, document in (
            ("single tokens", augmented(DECODER, "TokenDropout", "Mask")),
            ("spans", augmented(DECODER, "SpanCorruption", "Mask")),
            ("byte pairs", augmented(DECODER, "TokenDropout", "Mask", tokenizer={"type": "BPE"})),
            ("an LSTM", augmented({"type": "LSTM"}, "TokenDropout", "Mask")),
            (
                "bytes for a model that has a tokenizer of its own",
                augmented(
                    {"type": "HuggingFace", "huggingFace": {"path": "m"}},
                    "TokenDropout",
                    "Mask",
                    tokenizer={"type": "Byte"},
                ),
            ),
            (
                "a model of one's own",
                augmented({"type": "Import", "import": {"function": "a:b"}}, "TokenDropout", "Mask"),
            ),
            (
                "tokens of an unknown tokenizer",
                changed(
                    augmented({"type": "HuggingFace", "huggingFace": {"path": "m"}}, "TokenDropout", "Mask"),
                    DATA,
                    lambda data: {
                        "type": "TokenShards",
                        "tokenShards": TOKENS,
                        "augmentations": data["augmentations"],
                    },
                ),
            ),
        )
    ),
    MistakeCase(
        "tokens that become the end of a document",
        augmented(DECODER, "TokenDropout", "Random", packing={"boundaries": "Attention"}),
        RECIPE,
        "data.packing.boundaries must not be Attention with TokenDropout or SpanCorruption",
    ),
    MistakeCase(
        "a tokenizer of a library that is nowhere",
        in_job(f"{DATA}.tokenizer", {"type": "HuggingFace"}),
        RECIPE,
        "data.tokenizer.path must be set for type HuggingFace unless model.type is HuggingFace",
    ),
    MistakeCase(
        "texts of images",
        pictures({"type": "ConvNet"}, 32, 32, selection=chosen_by("m")),
        RECIPE,
        "data.selection.representative.encoder reads text, and must be left out where samples have none: TokenShards,",
    ),
    MistakeCase(
        "texts of tokens",
        mixed(tokens(), selection=chosen_by("m")),
        RECIPE,
        "data.selection.representative.encoder reads text, and must be left out where samples have none",
    ),
    MistakeCase("tokens of two sizes", mixed(tokens(), tokens(path="b", vocabularySize=9**6)), RECIPE, ONE_TOKENIZER),
    MistakeCase("tokens beside bytes", mixed(tokens(), {"text": {"path": "a.txt"}}), RECIPE, ONE_TOKENIZER),
    MistakeCase(
        "two ends of documents",
        mixed(tokens(), tokens(path="b", endOfTextToken=0), packing={"boundaries": "Attention"}),
        RECIPE,
        "the endOfTextToken of each source of data.mixture must be the same if data.packing.boundaries is Attention",
    ),
    MistakeCase(
        "an end of documents that is not that of bytes",
        mixed(
            tokens(vocabularySize=256, endOfTextToken=1),
            {"text": {"path": "a.txt"}},
            packing={"boundaries": "Attention"},
        ),
        RECIPE,
        "and 0 where other sources are read as bytes",
    ),
    *(
        MistakeCase(
            f"{what} in two sources",
            mixed(source, source),
            f"{DATA}.mixture",
            "no two sources may read the same files: name each in one of them",
        )
        for what, source in (
            ("the same text", {"text": {"path": "a"}}),
            ("the same records", {"records": {"path": "a"}}),
            ("the same tokens", tokens()),
            ("the library of Python", {"pythonStandardLibrary": {}}),
        )
    ),
    *(
        MistakeCase(
            f"tokens that are trained on and held out, of {field}",
            in_job(DATA, {"type": "TokenShards", "tokenShards": {**more, "vocabularySize": 9, "validationPath": "a"}}),
            f"{DATA}.tokenShards",
            "validationPath must name other files than path and paths, which are trained on",
        )
        for field, more in (("path", {"path": "a"}), ("paths", {"paths": ["b", "a"]}))
    ),
    MistakeCase(
        "two stages that begin at once",
        mixed(
            {"text": {"path": "a"}},
            mixture={"stages": [{"fromPercent": 50, "weights": {"s0": 1}}, {"fromPercent": 50, "weights": {"s0": 2}}]},
        ),
        f"{DATA}.mixture.stages[1]",
        'Duplicate value: {"fromPercent":50}',
    ),
    *(
        MistakeCase(f"images that are halved to nothing {why}", document, RECIPE, PIXELS)
        for why, document in (
            ("by default", pictures({"type": "ConvNet"}, 3, 32)),
            ("by stages", pictures({"type": "ConvNet", "convNet": {"numStages": 6}}, 64, 63)),
            ("by blocks", pictures({"type": "ResNet", "resNet": {"numStages": 4, "numBlocks": 4}}, 7, 8)),
            ("by what comes before them", pictures({"type": "ResNet", "resNet": {"largeImages": True}}, 15, 15)),
        )
    ),
    MistakeCase(
        "a part chosen behind the last step",
        in_job(
            f"{DATA}.selection", {"type": "Loss", "keepPercent": 50, "loss": {"by": "FirstEpoch", "firstSteps": 40}}
        ),
        RECIPE,
        "data.selection.loss.firstSteps must be less than totalSteps",
    ),
    MistakeCase(
        "own losses of several sources, each of which is drawn by its weight",
        mixed(
            {"text": {"path": "a.txt"}},
            selection={"type": "Loss", "keepPercent": 50, "loss": {"by": "FirstEpoch"}},
        ),
        RECIPE,
        "needs data.order Shuffled, no batch.auto, no data.mixture,",
    ),
    MistakeCase(
        "a curriculum that is longer than the training",
        in_job(f"{DATA}.order", {"type": "Curriculum", "curriculum": {"steps": 41}}),
        RECIPE,
        "data.order.curriculum.steps must be at most totalSteps",
    ),
    *(
        MistakeCase(
            f"a learning rate that rises {why}",
            changed(in_job(f"{RECIPE}.schedule", {"minLearningRate": least}), f"{RECIPE}.optimizer", optimizer),
            RECIPE,
            "schedule.minLearningRate must be at most optimizer.learningRate, from which it falls",
        )
        for why, least, optimizer in (
            ("above the default", "0.002", {}),
            ("above", "0.0002", {"learningRate": "0.0001"}),
        )
    ),
    *(
        MistakeCase(
            f"matrices of {word}",
            changed(pictures({"type": word}, 32, 32), f"{RECIPE}.optimizer", {"type": "Muon"}),
            RECIPE,
            "optimizer.type must not be Muon for ConvNet and ResNet, whose layers have no matrices",
        )
        for word in ("ConvNet", "ResNet")
    ),
]
