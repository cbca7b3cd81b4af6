"""Which training samples are kept, and the order in which they come.

Selection     data.selection: a part of the training samples
Order         data.order: how those that are kept follow each other
selection_rules    what both demand of the rest of a recipe
"""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import Path, PlainData, Rule, Strict
from costopt.schema.degrees import cel_degree
from costopt.schema.models import CEL_CARRIES_STATE, carries_state
from costopt.schema.unions import BESIDE, tagged_union


class Reference(Strict):
    """What tells how hard a sample is: its mean loss, in nats per target."""

    model: Path | None = None
    """A folder with a model that costopt has trained (`artifacts/model` of another job), of the same kind of samples
    and the same vocabulary or classes; or, for text, a causal language model of the Hugging Face library, which reads
    it in tokens of its own. None means a bigram model of the training tokens, made here: for text only."""


class LossSelection(Strict):
    """Samples by how hard a reference finds them, or this training itself."""

    by: Literal["Reference", "FirstEpoch", "ExcessLoss"] = "Reference"
    """Reference: the loss of `reference`, before the first step. FirstEpoch: the loss in this training, which learns
    from all samples for an epoch, and then from those that are kept. ExcessLoss: so too, less the loss of
    `reference.model` (RHO-LOSS, arXiv 2206.07137)."""
    first_steps: Annotated[int, Field(ge=1, le=10**8)] | None = None
    """Of FirstEpoch and ExcessLoss: steps on all samples; then the model is asked for the loss of each. None means an
    epoch, whose own losses are taken."""
    keep: Literal["Highest", "Middle", "Lowest"] = "Middle"
    """Which share is kept: the hardest samples, the easiest, or those between. Highest keeps noise and wrong labels
    first, if there are any."""
    reference: Reference = Reference()
    """What tells how hard a sample is."""

    rules = (
        Rule(
            cel="!has(self.firstSteps) || has(self.by) && self.by != 'Reference'",
            message="firstSteps must be left out unless by is FirstEpoch or ExcessLoss, which learn from all first",
            holds=lambda data: "firstSteps" not in data or data["by"] != "Reference",
        ),
        Rule(
            cel="!has(self.by) || self.by == 'Reference' || "
            "(has(self.reference) && has(self.reference.model)) == (self.by == 'ExcessLoss')",
            message="reference.model must be given with by ExcessLoss, which is the loss above it, and left out with "
            "by FirstEpoch, which asks no other model",
            holds=lambda data: (
                data["by"] == "Reference" or ("model" in data.get("reference", {})) == (data["by"] == "ExcessLoss")
            ),
        ),
    )


class RepresentativeSelection(Strict):
    """Samples that stand for the others, by their embeddings."""

    method: Literal["KCenter", "Clusters"] = "KCenter"
    """KCenter: the sample farthest from all that are kept comes next (Sener and Savarese 2018), within parts of 4,096
    samples, so that rare ones stay. Clusters: k-means, of each cluster equally many, so that frequent ones lose
    most."""
    clusters: Annotated[int, Field(ge=2, le=1024)] = 64
    """Clusters of `method: Clusters`."""
    encoder: Path | None = None
    """A folder with a model of the Hugging Face library: the mean of its outputs for a text is its embedding. None
    means counts of tokens and pairs of tokens, or coarse pixels, or scaled features."""


@tagged_union
class Selection(Strict):
    """A part of the training samples; held-out ones stay as they are. It is chosen once: before the first step, or
    after the first epoch where `loss.by` says so."""

    type: Literal["Random", "Stratified", "Loss", "Representative"]
    """Random: any. Stratified: the same share of each class; of text, of each hundred samples that follow each other,
    so that each file keeps its share. Loss and Representative: as the settings below say."""
    keep_percent: Annotated[Annotated[int, Field(ge=1, le=99)], BESIDE]
    """Percent of the training samples that are kept."""
    loss: LossSelection | None = None
    """Settings of Loss. None means its defaults."""
    representative: RepresentativeSelection | None = None
    """Settings of Representative. None means its defaults."""


class Curriculum(Strict):
    """Easy samples first: step t draws from the easiest share c(t) of the samples, which grows as the square root of t
    from `startPercent` to all (competence, Platanios et al. 2019)."""

    by: Literal["Length", "Loss"] = "Loss"
    """What makes a sample hard: the length of its document (labelled text only), or the loss of `reference`."""
    reference: Reference = Reference()
    """What tells the loss."""
    start_percent: Annotated[int, Field(ge=1, le=100)] = 10
    """Percent of the samples from which the first step draws; at least one global batch."""
    steps: Annotated[int, Field(ge=1, le=10**8)]
    """Steps until all samples are drawn from. Then epochs begin, each with every sample once."""


class LengthBucketed(Strict):
    """Documents of like length in one batch, so that less of it is filling: each micro-batch is then as long as its
    longest document, up to the next multiple of eight."""

    batches: Annotated[int, Field(ge=2, le=1000)] = 16
    """Global batches whose samples are sorted together. More make batches more alike, and mix documents less."""


@tagged_union
class Order(Strict):
    """How the samples that are kept follow each other."""

    type: Literal["Shuffled", "LengthBucketed", "Curriculum"] = "Shuffled"
    """Shuffled: each epoch is a permutation of all. LengthBucketed: so too, but documents of like length come together;
    labelled text only. Curriculum: easy ones first."""
    length_bucketed: LengthBucketed | None = None
    """Settings of LengthBucketed. None means its defaults."""
    curriculum: Curriculum | None = None
    """Settings of Curriculum, which must be given."""


_SETTINGS = ("selection", "order")


def _by_own_loss(data: PlainData) -> bool:
    return bool(data["data"].get("selection", {}).get("loss", {}).get("by", "Reference") != "Reference")


def _references(data: PlainData) -> list[PlainData]:
    """Where a loss is asked of a reference: the settings beside which one may stand."""
    selection, order = data["data"].get("selection", {}), data["data"].get("order", {})
    found = [selection.get("loss", {})] if selection.get("type") == "Loss" and not _by_own_loss(data) else []
    curriculum = order.get("curriculum", {})
    return [*found, curriculum] if order.get("type") == "Curriculum" and curriculum.get("by") == "Loss" else found


def selection_rules(without_tokens: tuple[str, ...], labelled_text: tuple[str, ...]) -> tuple[Rule, ...]:
    """For a class with fields `model` and `data`. The words of `data.type` whose samples are no tokens, and of which
    documents are samples."""
    tokens = " && ".join(f"self.data.type != '{word}'" for word in without_tokens)
    lengths = " || ".join(f"self.data.type == '{word}'" for word in labelled_text)
    selected, ordered = "self.data.selection", "self.data.order.curriculum"
    by_own_loss = "(self.data.?selection.?loss.?by.orValue('Reference') != 'Reference')"
    bucketed = "self.data.?order.?type.orValue('') == 'LengthBucketed'"
    return (
        Rule(
            cel=f"!{CEL_CARRIES_STATE} || !has(self.data.selection) && !has(self.data.order)",
            message="data.selection and data.order must not be set with model.lstm.carryState, whose samples go on "
            "from each other",
            holds=lambda data: not (carries_state(data["model"]) and set(_SETTINGS) & data["data"].keys()),
        ),
        Rule(
            cel=f"({tokens}) || "
            f"(!(has({selected}) && {selected}.type == 'Loss') || {by_own_loss} || "
            f"has({selected}.loss) && has({selected}.loss.reference) && has({selected}.loss.reference.model)) && "
            f"(!(has(self.data.order) && has({ordered}) && {ordered}.by == 'Loss') || "
            f"has({ordered}.reference) && has({ordered}.reference.model))",
            message="reference.model must be given where a loss is asked for and data.type is "
            f"{' or '.join(without_tokens)}, which has no tokens that a bigram model could count",
            holds=lambda data: (
                data["data"]["type"] not in without_tokens
                or all("model" in settings.get("reference", {}) for settings in _references(data))
            ),
        ),
        Rule(
            cel=f"!{by_own_loss} || !has(self.batch.auto) && !has(self.data.mixture) && "
            "self.data.?order.?type.orValue('Shuffled') == 'Shuffled' && "
            f"{cel_degree('self', 'tensor')} == 1 && {cel_degree('self', 'pipeline')} == 1",
            message="data.selection.loss.by FirstEpoch or ExcessLoss needs data.order Shuffled, no batch.auto, no "
            "data.mixture, and parallelism.tensor and parallelism.pipeline 1, where each rank has the losses of its "
            "own samples: share the work with shard or dataParallel, or name a reference",
            holds=lambda data: (
                not _by_own_loss(data)
                or (
                    "auto" not in data["batch"]
                    and "mixture" not in data["data"]
                    and data["data"].get("order", {}).get("type", "Shuffled") == "Shuffled"
                    and data["parallelism"]["tensor"] == data["parallelism"]["pipeline"] == 1
                )
            ),
        ),
        Rule(
            cel=f"!{by_own_loss} || !has({selected}.loss.firstSteps) || !has(self.totalSteps) || "
            f"{selected}.loss.firstSteps < self.totalSteps",
            message="data.selection.loss.firstSteps must be less than totalSteps: the steps behind it learn from what "
            "is kept",
            holds=lambda data: (
                not _by_own_loss(data)
                or "firstSteps" not in data["data"]["selection"]["loss"]
                or data["data"]["selection"]["loss"]["firstSteps"] < data["totalSteps"]
            ),
        ),
        Rule(
            cel=f"!has(self.data.order) || !has({ordered}) || !has(self.totalSteps) || "
            f"{ordered}.steps <= self.totalSteps",
            message="data.order.curriculum.steps must be at most totalSteps, or the hardest samples are never drawn",
            holds=lambda data: (
                data["data"].get("order", {}).get("curriculum", {}).get("steps", 0) <= data["totalSteps"]
            ),
        ),
        Rule(
            cel=f"!({bucketed}) || ({lengths}) && !(has(self.compile) && self.compile) && "
            f"{cel_degree('self', 'tensor')} == 1 && {cel_degree('self', 'pipeline')} == 1",
            message=f"data.order.type LengthBucketed needs data.type {' or '.join(labelled_text)}, compile false, and "
            "parallelism.tensor and parallelism.pipeline 1, since each micro-batch has a length of its own",
            holds=lambda data: (
                data["data"].get("order", {}).get("type") != "LengthBucketed"
                or (
                    data["data"]["type"] in labelled_text
                    and not data.get("compile")
                    and data["parallelism"]["tensor"] == data["parallelism"]["pipeline"] == 1
                )
            ),
        ),
        Rule(
            cel=f"({lengths}) || !(has(self.data.order) && has({ordered}) && {ordered}.by == 'Length')",
            message=f"data.order.curriculum.by must be Loss unless data.type is {' or '.join(labelled_text)}, for "
            "other samples have one length",
            holds=lambda data: (
                data["data"]["type"] in labelled_text
                or data["data"].get("order", {}).get("curriculum", {}).get("by") != "Length"
            ),
        ),
    )
