"""Which models can be trained on which data: each class of settings declares one kind of sample, and rules follow.

TEXT, MASKED_TEXT, LABELLED_TEXT, IMAGES, TABLES     the kinds
GivesSamples     settings of a source of data; ReadsSamples: of a family of models; ChangesSamples: of an augmentation
BySetting        a kind that one of the settings decides, such as a task
kind_read        settings of a model -> the kind that it reads
data_fits_model, data_fits_task, only_for_text, needs_classes, augmentations_fit     the rules, with CEL and sentence
words_giving     the words of sources that give some kinds
reads, cel_reads    whether a model reads one kind
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from costopt.schema.base import PlainData, Rule, Strict, cel_field, cel_list, field_key
from costopt.schema.unions import TAG, UNIONS, Member

TEXT = "text"
"""Each token is to be told from those before it."""
MASKED_TEXT = "masked text"
"""Some tokens are hidden, and to be told from those around them."""
LABELLED_TEXT = "labelled text"
"""The class of each document is to be told."""
IMAGES = "images"
"""The class of each image is to be told."""
TABLES = "tables"
"""The class of each row of features is to be told."""

MADE_FROM: Mapping[str, str] = {MASKED_TEXT: TEXT}
"""Kinds that are made from another one: what gives that one gives this one."""

DOCUMENTS = (TEXT, LABELLED_TEXT)
"""Kinds that are made of documents, which transforms may change."""


class GivesSamples(Strict):
    """Settings of a source of data."""

    gives: ClassVar[str]
    """The kind of samples that it gives."""
    has_documents: ClassVar[bool] = True
    """False: it gives them ready-made, and no documents that could be changed."""


@dataclass(frozen=True)
class BySetting:
    """The kind of samples that a family reads, where one of its settings decides."""

    field: str
    """The setting, as Python calls it: a choice of words."""
    kinds: Mapping[str, str]
    """Each of its words -> the kind."""


class ReadsSamples(Strict):
    """Settings of a family of models."""

    reads: ClassVar[str | BySetting]
    """The kind of samples that it is trained on."""


class ChangesSamples(Strict):
    """Settings of an augmentation."""

    fits: ClassVar[tuple[str, ...]]
    """The kinds of samples that it can change."""


def kind_read(settings: ReadsSamples) -> str:
    """The kind of samples that a model of these settings is trained on."""
    reads = settings.reads
    return reads if isinstance(reads, str) else reads.kinds[getattr(settings, reads.field)]


@dataclass(frozen=True)
class _Reader:
    """A word of `model.type`, alone or with a word of the setting that decides what it reads."""

    word: str
    needs: str
    """The kind of data, as a source gives it."""
    key: str = ""
    """The settings' name in a document; like all that follows, empty where nothing but the type decides."""
    setting: str = ""
    value: str = ""
    default: str = ""
    """What the setting is where it is left out; empty if it must be given."""

    @property
    def told(self) -> str:
        return f"{self.word} with {self.setting} {self.value}" if self.setting else self.word

    def cel(self) -> str:
        value = f"self.model.?{cel_field(self.key)}.?{self.setting}.orValue('{self.default}')"
        return f"self.model.{TAG} == '{self.word}'" + (f" && {value} == '{self.value}'" if self.setting else "")

    def is_it(self, model: PlainData) -> bool:
        if model[TAG] != self.word or not self.setting:
            return bool(model[TAG] == self.word)
        settings = model.get(self.key, {})
        if not isinstance(settings, Mapping):
            raise TypeError(f"{self.key} must be settings")
        return bool(settings.get(self.setting, self.default) == self.value)


def data_fits_model(models: type[Strict], sources: type[Strict]) -> Rule:
    """For a class with fields `model` and `data`, which are these unions: the data is of the kind that the model reads.

    Raises TypeError for a kind that is only given or only read.
    """
    readers, givers = _readers(models), _givers(sources)
    if lonely := readers.keys() ^ givers.keys():
        raise TypeError(f"samples must be given by a source and read by a model: {', '.join(sorted(lonely))}")
    kinds = sorted(givers, key=lambda kind: len(givers[kind]))
    told = [
        f"{' or '.join(reader.told for reader in readers[kind])} needs {' or '.join(givers[kind])}" for kind in kinds
    ]
    told[0] = told[0].replace(" needs ", " needs data.type ", 1)
    # Every model reads one kind and every source gives one, so where all kinds but one agree the last one does, too.
    agree = [f"({_cel_reads(readers[kind])}) == ({_cel_in('data', givers[kind])})" for kind in kinds[:-1]]
    # Settings that must be there and are not are another rule's: of what they would read nothing is known.
    unknown = _cel_unknown(reader for kind in kinds for reader in readers[kind])
    agreement = " && ".join(agree)
    kind_given = {word: kind for kind, words in givers.items() for word in words}

    def holds(data: PlainData) -> bool:
        read = [kind for kind in kinds if any(reader.is_it(data["model"]) for reader in readers[kind])]
        return not read or kind_given[data["data"][TAG]] in read

    return Rule(
        cel=" || ".join([*unknown, f"({agreement})"]) if unknown else agreement,
        message=f"model.type {', '.join(told[:-1])}, and {told[-1]}",
        holds=holds,
    )


def data_fits_task(tasks: BySetting, sources: type[Strict]) -> Rule:
    """For a class with fields `data`, which is this union, and `task`, a word of `tasks` that may be left out: the data
    is of a kind that such a task reads, if one is named."""
    givers = _givers(sources)
    tasks_of: dict[tuple[str, ...], list[str]] = {}
    for task, kind in tasks.kinds.items():
        tasks_of.setdefault(tuple(givers[MADE_FROM.get(kind, kind)]), []).append(task)
    of_task = {task: words for words, of_words in tasks_of.items() for task in of_words}
    told = [f"{' or '.join(words)} for task {' or '.join(of_words)}" for words, of_words in tasks_of.items()]
    cases = [f"(self.task in {cel_list(of_words)} && {_cel_in('data', words)})" for words, of_words in tasks_of.items()]

    def holds(data: PlainData) -> bool:
        return "task" not in data or data["data"][TAG] in of_task[data["task"]]

    return Rule(
        cel=f"!has(self.task) || {' || '.join(cases)}",
        message=f"data.type must be {', and '.join(told)}",
        holds=holds,
    )


def only_for_text(key: str, what: str, sources: type[Strict]) -> Rule:
    """For a class with the field `data`, which is this union: its field `key` is set for text only. `what` it holds."""
    others = [word for kind, words in _givers(sources).items() if kind not in DOCUMENTS for word in words]
    is_text = f"self.data.type != '{others[0]}'" if len(others) == 1 else f"!({_cel_in('data', others)})"

    def holds(data: PlainData) -> bool:
        return data["data"][TAG] not in others or data["data"].get(key) is None

    return Rule(
        cel=f"{is_text} || !has(self.data.{key})",
        message=f"data.{key} are {what} and must not be set if data.type is {' or '.join(others)}",
        holds=holds,
    )


def needs_classes(key: str, field: str, words: list[str], sources: type[Strict]) -> Rule:
    """For a class with the field `data`, which is this union: its field `key`, where that is set, has one of these
    `words` in its own `field` only if samples are of classes."""
    without = _givers(sources)[TEXT]
    given = f"self.{key}.{field}"

    def holds(data: PlainData) -> bool:
        settings = data.get(key)
        return settings is None or settings[field] not in words or data["data"][TAG] not in without

    return Rule(
        cel=f"!has(self.{key}) || !({given} in {cel_list(words)}) || !({_cel_in('data', without)})",
        message=f"{key}.{field} {' or '.join(words)} must not be set if data.type is {' or '.join(without)}, where no "
        "classes are told",
        holds=holds,
    )


def augmentations_fit(models: type[Strict], augmentations: type[Strict]) -> Rule:
    """For a class with the fields `model`, which is this union, and `data`, whose field `augmentations` is a list of
    that union: each fits the samples that the model reads."""
    words_of: dict[tuple[str, ...], list[str]] = {}
    for member in UNIONS[augmentations]:
        if member.settings is None or not issubclass(member.settings, ChangesSamples):
            raise _undeclared(augmentations, member)
        words_of.setdefault(member.settings.fits, []).append(member.word)
    readers = _readers(models, {})
    able = {fits: [reader for kind in fits for reader in readers.get(kind, ())] for fits in words_of}
    fits_of = {word: fits for fits, words in words_of.items() for word in words}
    parts = [
        f"(!self.data.augmentations.exists(one, one.{TAG} in {cel_list(words)}) || ({_cel_reads(able[fits])}))"
        for fits, words in words_of.items()
    ]
    unknown = _cel_unknown(reader for of_kind in readers.values() for reader in of_kind)
    told = [f"{', '.join(words)} for {' or '.join(fits)}" for fits, words in words_of.items()]

    def holds(data: PlainData) -> bool:
        words = [one[TAG] for one in data["data"].get("augmentations") or ()]
        if not any(reader.is_it(data["model"]) for of_kind in readers.values() for reader in of_kind):
            return True
        return all(any(reader.is_it(data["model"]) for reader in able[fits_of[word]]) for word in words)

    return Rule(
        cel=" || ".join(["!has(self.data.augmentations)", *unknown, f"({' && '.join(parts)})"]),
        message=f"data.augmentations must be for the samples that the model reads: {'; '.join(told)}",
        holds=holds,
    )


def reads(models: type[Strict], kind: str, model: PlainData) -> bool:
    """Whether plain settings of `models`, which is that union, are of a model that reads samples of this very kind."""
    return any(reader.is_it(model) for reader in _readers(models, {}).get(kind, ()))


def cel_reads(models: type[Strict], kind: str) -> str:
    """The same in CEL, of the field `model`."""
    return _cel_reads(_readers(models, {})[kind])


def words_giving(sources: type[Strict], *, only: Iterable[str] = (), but: Iterable[str] = ()) -> tuple[str, ...]:
    """The words of `type` that give samples of these kinds, or of all kinds but those."""
    return tuple(
        word
        for kind, words in _givers(sources).items()
        if (kind in only if only else kind not in but)
        for word in words
    )


def _givers(sources: type[Strict]) -> dict[str, list[str]]:
    """The words of `type` by the kind of samples that the source of each gives."""
    words: dict[str, list[str]] = {}
    for member in UNIONS[sources]:
        if member.settings is None or not issubclass(member.settings, GivesSamples):
            raise _undeclared(sources, member)
        words.setdefault(member.settings.gives, []).append(member.word)
    return words


def _readers(models: type[Strict], made_from: Mapping[str, str] = MADE_FROM) -> dict[str, list[_Reader]]:
    """What reads each kind of data; `made_from` takes kinds together."""
    readers: dict[str, list[_Reader]] = {}
    for member in UNIONS[models]:
        if member.settings is None or not issubclass(member.settings, ReadsSamples):
            raise _undeclared(models, member)
        for reader in _readers_of(member, member.settings, made_from):
            readers.setdefault(reader.needs, []).append(reader)
    return readers


def _readers_of(member: Member, settings: type[ReadsSamples], made_from: Mapping[str, str]) -> list[_Reader]:
    reads = settings.reads
    if isinstance(reads, str):
        return [_Reader(member.word, made_from.get(reads, reads))]
    field = settings.model_fields[reads.field]
    kinds = {made_from.get(kind, kind) for kind in reads.kinds.values()}
    if len(kinds) == 1:
        return [_Reader(member.word, kinds.pop())]
    default = "" if field.is_required() else str(field.default)
    return [
        _Reader(member.word, made_from.get(kind, kind), member.key, field_key(reads.field, field), value, default)
        for value, kind in reads.kinds.items()
    ]


def _undeclared(union: type[Strict], member: Member) -> TypeError:
    return TypeError(f"{union.__name__}: the settings of {member.word} must declare a kind of samples")


def _cel_reads(readers: list[_Reader]) -> str:
    plain = [reader.word for reader in readers if not reader.setting]
    parts = [_cel_in("model", plain)] if plain else []
    parts += [f"({reader.cel()})" for reader in readers if reader.setting]
    return " || ".join(parts)


def _cel_unknown(readers: Iterable[_Reader]) -> list[str]:
    """Settings that decide what is read, and must be there, but are not."""
    return sorted(
        {
            f"(self.model.{TAG} == '{reader.word}' && !has(self.model.{cel_field(reader.key)}))"
            for reader in readers
            if reader.setting and not reader.default
        }
    )


def _cel_in(field: str, words: Iterable[str]) -> str:
    first, *more = words
    return f"self.{field}.type in {cel_list([first, *more])}" if more else f"self.{field}.type == '{first}'"
