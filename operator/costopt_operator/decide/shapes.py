"""Normalizes what others may have written, at the edge, so that no reader can fail.

An API server validates objects, but a status is written by whoever may patch it, versions differ, and what is valid
for Kubernetes may be too large here. A shape names the fields that are read and the type of each. A value of another
type is dropped, as if it had not been written; a number or a text out of bounds is clamped or cut. Fields that a
shape does not name stay as they are. Pure.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

Shape = Callable[[Any], Any]
"""Returns the normalized value. Raises Unfit for another type."""

MOST_GANG = 4096
"""Replicas of an attempt."""
MOST_ITEMS = 256
"""Containers, conditions, owners and finalizers of one object that are read."""
MOST_KEYS = 1024
NAME_LIMIT = 512
"""Characters of a name, a label or a quantity: the longest that Kubernetes allows is a resource's, of 317."""
WORDS_LIMIT = 16_384
"""Characters of a message: more than a kubelet or a scheduler writes."""
INDEXES_LIMIT = 65_536
"""Characters of completed indexes: a gang of 4,096 needs at most 20,000."""

_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_PLAIN_MOMENT_LENGTH = len("2026-03-01T12:00:00Z")


class Unfit(Exception):
    """A value of the wrong type."""


def shaped(shape: Shape, data: object) -> Any:
    """The normalized data. Raises ValueError for data of the wrong type."""
    try:
        return shape(data)
    except Unfit as error:
        raise ValueError(f"{error} is no object") from error


def text(limit: int = NAME_LIMIT, *, filled: bool = False) -> Shape:
    """A text of at most `limit` characters, all of them encodable; `filled`: an empty one is unfit."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise Unfit(type(value).__name__)
        kept = value[:limit]
        if not kept.isascii():
            kept = kept.encode(errors="ignore").decode()  # lone surrogates, which JSON allows
        if filled and not kept:
            raise Unfit("an empty text")
        return kept

    return read


def whole(least: int, most: int) -> Shape:
    """A whole number within these bounds."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unfit(type(value).__name__)
        return min(most, max(least, value))

    return read


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Unfit(type(value).__name__)
    return value


def moment(value: Any) -> str:
    """A time as the API server writes it, in UTC, far enough from the limits to add or subtract days."""
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise Unfit("a text that is no time")
    try:
        read = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Unfit("a time that never is") from error
    if not 1970 <= read.year < 9000:
        raise Unfit("a time of another age")
    if len(value) == _PLAIN_MOMENT_LENGTH and value.endswith("Z"):
        return value
    return read.strftime("%Y-%m-%dT%H:%M:%S") + (f".{read.microsecond:06}" if read.microsecond else "") + "Z"


_key = text()


def each(item: Shape, most: int = MOST_ITEMS) -> Shape:
    """A list, of which at most `most` items are read."""

    def read(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Unfit(type(value).__name__)
        return [fit for one in value[:most] if (fit := _or_nothing(item, one)) is not None]

    return read


def entries(value_shape: Shape, most: int = MOST_KEYS) -> Shape:
    """A mapping from texts to values of that shape."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Unfit(type(value).__name__)
        pairs = ((key, _or_nothing(value_shape, one)) for key, one in list(value.items())[:most])
        return {key: one for key, one in pairs if one is not None and _or_nothing(_key, key) == key}

    return read


def fields(*needed: str, **shapes: Shape) -> Shape:
    """An object with these fields; unfit if a `needed` one is missing."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Unfit(type(value).__name__)
        read = dict(value)
        for name, shape in shapes.items():
            if name not in value:
                continue
            fit = _or_nothing(shape, value[name])
            if fit is None:
                del read[name]
            else:
                read[name] = fit
        if not all(name in read for name in needed):
            raise Unfit("an object that lacks something")
        return read

    return read


def _or_nothing(shape: Shape, value: Any) -> Any:
    if value is None:
        return None
    try:
        return shape(value)
    except Unfit:
        return None


def differs(before: object, after: object, path: str = "") -> list[str]:
    """Paths at which normalization changed an object, such as "status.phase"."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [where for key in before for where in differs(before[key], after.get(key), f"{path}.{key}".lstrip("."))]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [where for place, (one, other) in pairs for where in differs(one, other, f"{path}[{place}]")]
    return [] if before == after and type(before) is type(after) else [path]


_name, _words = text(), text(WORDS_LIMIT)


def _quantity(value: Any) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) else _name(value)


_quantities = entries(_quantity)
_METADATA = {
    "name": _name,
    "namespace": _name,
    "uid": _name,
    "resourceVersion": _name,
    "generation": whole(0, 10**15),
    "labels": entries(_name),
    "annotations": entries(text(262_144)),
    "finalizers": each(_name),
    "ownerReferences": each(fields(kind=_name, name=_name, uid=_name, controller=flag, apiVersion=_name)),
    "creationTimestamp": moment,
    "deletionTimestamp": moment,
    "deletionGracePeriodSeconds": whole(0, 10**9),
}
_metadata = fields("name", "namespace", "uid", "resourceVersion", **_METADATA)
_condition = fields("type", "status", type=_name, status=_name, reason=_name, message=_words, lastTransitionTime=moment)
_resources = fields(requests=_quantities, limits=_quantities)
_container = fields("name", name=_name, image=text(4096), resources=_resources, restartPolicy=_name)
_terminated = fields(
    exitCode=whole(-(2**31), 2**31 - 1),
    signal=whole(-(2**31), 2**31 - 1),
    reason=_name,
    message=_words,
    startedAt=moment,
    finishedAt=moment,
)
_state = fields(waiting=fields(reason=_name, message=_words), running=fields(startedAt=moment), terminated=_terminated)
_given: dict[str, Shape] = {"resources": _resources, "allocatedResources": _quantities}
_container_status = fields("name", name=_name, image=text(4096), state=_state, **_given)

POD = fields(
    "metadata",
    metadata=fields("name", "namespace", "uid", "resourceVersion", "creationTimestamp", **_METADATA),
    spec=fields(
        nodeName=text(253, filled=True),
        containers=each(_container),
        initContainers=each(_container),
        overhead=_quantities,
        resources=_resources,
    ),
    status=fields(
        phase=_name,
        reason=_name,
        message=_words,
        conditions=each(_condition),
        containerStatuses=each(_container_status),
        initContainerStatuses=each(_container_status),
        **_given,
    ),
)
"""Fields read of a pod."""

JOB = fields(
    "metadata",
    metadata=fields("name", "namespace", "uid", "resourceVersion", "creationTimestamp", **_METADATA),
    spec=fields(completions=whole(0, MOST_GANG), suspend=flag),
    status=fields(startTime=moment, completedIndexes=text(INDEXES_LIMIT), conditions=each(_condition)),
)
"""Fields read of a batch Job."""

SERVICE = fields("metadata", metadata=_metadata)
NODE = fields("metadata", metadata=fields(labels=entries(_name)), status=fields(conditions=each(_condition)))
