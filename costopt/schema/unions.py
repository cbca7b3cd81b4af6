"""Classes of which one of several fields is set. Rule, predicate and sentence are made from the fields, once.

    @one_of()       exactly one of the fields that may be left out, as in Kubernetes' volumes
    @tagged_union   the settings that `type` names, as in a recipe's model

A word of `type` names the field of the same name: DecoderLM names decoderLM, SGD names sgd. A new member of a tagged
union is a word and a field of that name. Settings with a field that has no default, or of which one must be set, must
be there if they are named, others may be left out. A word without a field has no settings of its own.
"""

import re
import typing
from collections.abc import Callable
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from costopt.schema.base import PlainData, Rule, Strict, cel_field, field_key

Model = typing.TypeVar("Model", bound=Strict)

TAG = "type"
"""The field of a tagged union that names the member."""
BESIDE = object()
"""Marks settings in a tagged union that hold for every member: Annotated[Settings | None, BESIDE]."""


@dataclass(frozen=True)
class Member:
    """One of the fields of a union."""

    name: str
    """Name of the field in Python."""
    key: str
    """Its name in a document."""
    word: str = ""
    """The word of `type` that names it; empty if there is no `type`."""
    settings: type[Strict] | None = None
    """The class of what `type` names; None if there is no `type`."""
    required: bool = True
    """False: it may be left out also where it is named, and then has its defaults."""


UNIONS: dict[type[Strict], tuple[Member, ...]] = {}
"""Every union of the language, and its members in the order of the fields (or of the words)."""


def one_of(also: str = "", /, **meanings: str) -> Callable[[type[Model]], type[Model]]:
    """Make a class of which exactly one of some fields must be set.

    `meanings` names these fields and says what each is; without it they are all whose default is None. `also` is put
    behind the sentence.
    """

    def decorate(model: type[Model]) -> type[Model]:
        names = list(meanings) or [name for name, field in model.model_fields.items() if _may_be_none(field)]
        members = tuple(Member(name, field_key(name, model.model_fields[name])) for name in names)
        keys = [member.key for member in members]
        told = [f"{member.key} ({meanings[member.name]})" if meanings else member.key for member in members]
        rule = Rule(
            cel=f"[{', '.join(f'has(self.{key})' for key in keys)}].filter(given, given).size() == 1",
            message=f"exactly one of {_listed(told)} must be set{f'; {also}' if also else ''}",
            holds=lambda data: sum(key in data for key in keys) == 1,
        )
        return _made_union(model, members, rule)

    return decorate


def tagged_union(model: type[Model]) -> type[Model]:
    """Make a class whose `type` names which of its settings are used.

    Raises TypeError for settings that no word names, and for a class without words.
    """
    fields = model.model_fields
    words: tuple[str, ...] = typing.get_args(fields[TAG].annotation) if TAG in fields else ()
    if not words:
        raise TypeError(f"{model.__name__}: a tagged union needs a field `{TAG}` with a Literal of words")
    names = {field_key(name, field): name for name, field in fields.items()}
    blocks = {key: _settings_in(fields[name]) for key, name in names.items() if _settings_in(fields[name])}
    members = tuple(
        Member(names[key], key, word, block, _wants_more(block))
        for word in words
        if (block := blocks.get(key := key_of_word(word))) is not None
    )
    if not_named := blocks.keys() - {member.key for member in members}:
        raise TypeError(f"{model.__name__}: no word of `{TAG}` names {', '.join(sorted(not_named))}")
    required = [member for member in members if member.required]
    told = ", ".join(f"{member.key} for {member.word}" for member in required or members)
    if len(required) == len(members):
        demand = f"exactly the settings that `type` names must be set ({told})"
    else:
        demand = "only the settings that `type` names may be set" + (
            f"; required are {told}" if required else f" ({told})"
        )
    rule = Rule(
        cel=" && ".join(map(_cel_of, members)),
        message=demand,
        holds=lambda data: all(_holds(member, data) for member in members),
        also=lambda data: f"; {_told_wrong(members, data)}",
    )
    return _made_union(model, members, rule)


def key_of_word(word: str) -> str:
    """The name in a document of the settings that a word of `type` names."""
    return re.sub("^[A-Z]+(?![a-z])|^[A-Z]", lambda capitals: capitals[0].lower(), word)


def settings_named(union: Strict) -> Strict | None:
    """The settings that `type` names, with their defaults if they are left out; None for a word without settings."""
    for member in UNIONS[type(union)]:
        if member.settings and member.word == getattr(union, TAG):
            given: Strict | None = getattr(union, member.name)
            return member.settings() if given is None else given
    return None


def with_settings(union: Model, settings: Strict) -> Model:
    """The same member of a tagged union with other settings."""
    [name] = (member.name for member in UNIONS[type(union)] if member.word == getattr(union, TAG))
    return union.model_copy(update={name: settings})


def _made_union(model: type[Model], members: tuple[Member, ...], rule: Rule) -> type[Model]:
    UNIONS[model] = members
    model.rules = (rule, *model.rules)
    return model


def _may_be_none(field: FieldInfo) -> bool:
    return not field.is_required() and field.get_default(call_default_factory=True) is None


def _settings_in(field: FieldInfo) -> type[Strict] | None:
    """The class of settings that may be left out; None for any other field, such as a list of settings."""
    models = (one for one in typing.get_args(field.annotation) if isinstance(one, type) and issubclass(one, Strict))
    return next(models, None) if _may_be_none(field) and BESIDE not in field.metadata else None


def _wants_more(settings: type[Strict]) -> bool:
    """Whether settings cannot be left out: a field has no default, or one of several must be set."""
    return settings in UNIONS or any(field.is_required() for field in settings.model_fields.values())


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) <= 2 else ", ".join(names)


def _cel_of(member: Member) -> str:
    named, given = f"self.{TAG} == '{member.word}'", f"has(self.{cel_field(member.key)})"
    return f"({named}) == {given}" if member.required else f"({named} || !{given})"


def _told_wrong(members: tuple[Member, ...], data: PlainData) -> str:
    """Which settings `type` wants, and which stand there."""
    named = next((member for member in members if member.word == data[TAG]), None)
    others = [member for member in members if member is not named and member.key in data]
    if named is None:
        wanted = f"type {data[TAG]} has no settings of its own"
    elif named.required:
        wanted = f"type {named.word} needs {named.key}"
    else:
        wanted = f"type {named.word} has its settings in {named.key}"
    if not others:
        return f"{wanted}, which is not there"
    have = " and ".join(f"{member.key}, which is for {member.word}," for member in others)
    return f"{wanted}, but {have} stand{'s' if len(others) == 1 else ''} here"


def _holds(member: Member, data: PlainData) -> bool:
    named, given = data[TAG] == member.word, member.key in data
    return named == given if member.required else named or not given
