"""The table of families of models: a new one is a class of settings in the schema, a file, and a row here.

FAMILIES        `model.type` -> where its ModelFamily is
family_of       the row that settings name
build_model     a model of any family; rebuild_model: one for the weights of an artifact
carries_state   whether a training carries the model's state from sample to sample
tokenizer_of    where the tokenizer lies that a model brings
folder_of       where the model lies that training begins with
context_length_of, settings_that_must_stay     what holds for settings of any of them
kind_of_samples, metric_of      what a model of these settings reads, and what its work is counted in
"""

from pathlib import Path
from typing import Any, cast

from costopt.schema.data_kinds import ReadsSamples, kind_read
from costopt.schema.models import FamilySettings, ModelSettings
from costopt.schema.unions import settings_named
from costopt_trainer.models.factors import parted, put_factors
from costopt_trainer.models.family import METRICS, FromFolder, LayeredModel, Metric, ModelFamily
from costopt_trainer.models.shape import ModelShape, Widths
from costopt_trainer.tables import row

FAMILIES: dict[str, str] = {
    "DecoderLM": "costopt_trainer.models.decoder_lm:FAMILY",
    "Encoder": "costopt_trainer.models.encoder:FAMILY",
    "LSTM": "costopt_trainer.models.lstm:FAMILY",
    "ConvNet": "costopt_trainer.models.conv_net:FAMILY",
    "ResNet": "costopt_trainer.models.res_net:FAMILY",
    "MLP": "costopt_trainer.models.mlp:FAMILY",
    "HuggingFace": "costopt_trainer.models.hugging_face.family:FAMILY",
    "Import": "costopt_trainer.models.imported:FAMILY",
}
"""Imported when a recipe, or a stored model, names it."""


def family_of(settings: ModelSettings) -> ModelFamily:
    """The row of the family that `settings` name."""
    family: ModelFamily = row(FAMILIES, settings.type)
    return family


def build_model(shape: ModelShape, widths: Widths | None = None) -> LayeredModel:
    """A model of `shape`; see ModelFamily.build, also for what it raises."""
    own, ranks = parted(widths or {})
    model = family_of(shape.settings).build(settings_named(shape.settings), shape, own)
    put_factors(model, ranks)
    return model


def rebuild_model(shape: ModelShape, folder: Path, widths: Widths | None = None) -> LayeredModel:
    """A model like the one whose artifact is in `folder`, to be filled with its weights."""
    family = family_of(shape.settings)
    if isinstance(family, FromFolder):
        return family.rebuild(settings_named(shape.settings), shape, folder)
    return build_model(shape, widths)


def tokenizer_of(settings: ModelSettings) -> Path | None:
    """The folder of the tokenizer that the model brings; None if it brings none. Raises NotRetryable."""
    family = family_of(settings)
    return family.tokenizer_folder(settings_named(settings)) if isinstance(family, FromFolder) else None


def folder_of(settings: ModelSettings) -> Path | None:
    """The folder of a model that training begins with; None: there is none, or it lies at a hub."""
    own = settings.hugging_face
    return None if own is None or own.path is None else Path(own.path)


def runs_code(settings: ModelSettings) -> bool:
    """Whether code of others is run to build such a model, as its user has allowed."""
    return bool(getattr(settings_named(settings), "runs_code", False))


def carries_state(settings: ModelSettings) -> bool:
    """Whether a training carries the model's state from sample to sample."""
    return bool(getattr(settings_named(settings), "carry_state", False))


def context_length_of(settings: ModelSettings) -> int | None:
    """Tokens per sample; None if samples come as they are."""
    return family_of(settings).context_length(settings_named(settings))


def kind_of_samples(settings: ModelSettings) -> str:
    """The kind of samples that a model of these settings is trained on (see schema/data_kinds.py)."""
    return kind_read(cast(ReadsSamples, settings_named(settings)))


def metric_of(settings: ModelSettings) -> Metric:
    """What the work of a model of these settings is counted in."""
    return METRICS[kind_of_samples(settings)]


def settings_that_must_stay(settings: ModelSettings) -> dict[str, Any]:
    """Type and settings that shape the weights, as plain data: what takes effect by default or by a preset, and the
    same written out, are one."""
    named, family = settings_named(settings), family_of(settings)
    plain = named.shaping() if isinstance(named, FamilySettings) else {} if named is None else named.to_plain()
    must_stay = {key: value for key, value in plain.items() if key not in family.may_change}
    from_folder = family.identity(named) if isinstance(family, FromFolder) else {}
    return {"type": settings.type, **must_stay, **from_folder}
