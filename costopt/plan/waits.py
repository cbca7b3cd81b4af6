"""What a replica that does not run waits for, in words that stay the same while it waits for the same.

A kubelet tries again and again, and says the same in changing words: with and without "Back-off", with the addresses
and counts of the moment. A status that told them as they are would be written at every try.
"""

import re
from dataclasses import dataclass

from costopt.plan.foreign_text import one_line

LIMIT = 500


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for."""

    words: str
    in_vain: bool = False
    """It will never come."""


ITS_CONTAINER = Wait("its container to start")
ITS_PLACE = Wait("its volumes to be mounted and its network to be set up")
"""Until then a kubelet says nothing in the pod's status, also of a volume whose Secret or ConfigMap is missing."""

QUIET = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Waiting reasons of a start that goes as it should."""

_IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)

_PULL_ERRORS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"\b401\b|\b403\b|unauthorized|denied|forbidden|authorization|authentication"),
        "the registry refuses access (pods.imagePullSecrets)",
    ),
    (re.compile(r"\b429\b|too ?many ?requests|rate limit"), "the registry's rate limit is reached"),
    (
        re.compile(r"not found|(manifest|name) unknown|no such manifest|does not exist"),
        "the registry has no such image",
    ),
    (re.compile(r"no match for platform|no matching manifest"), "it is not made for the node's processors"),
    (re.compile(r"pull policy of never"), "it is not on the node, and may not be pulled"),
    (re.compile(r"no such host|server misbehaving|name resolution"), "the registry's name cannot be resolved"),
    (re.compile(r"x509|certificate|http response to https"), "the registry's certificate is not trusted"),
    (re.compile(r"signature"), "its signature is not valid"),
    (re.compile(r"no space left"), "the node's disk is full"),
    (
        re.compile(r"time(d )?-?out|deadline|refused|no route|unreachable|\beof\b|reset|unavailable|\b50[0234]\b"),
        "the registry cannot be reached",
    ),
)
"""What an answer of a registry means, in lower case and without the name of the image; the first match counts."""

_FORMALITIES = re.compile(
    r'^(Back-off pulling image "[^"]*"|ErrImagePull|failed to [a-z ]+(image|reference) "[^"]*")(: |$)',
)
_PASSING = re.compile(
    r"\b[0-9]{1,3}(\.[0-9]{1,3}){3}(:[0-9]+)?\b"  # an address, and its port
    r"|\[[0-9a-f:]+\](:[0-9]+)?"
    r"|\b(sha256:)?[0-9a-f]{32,}\b|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # a digest, an identifier
    r"|(?<=[ (])[0-9.]+(ms|s|m|h)\b"  # a time
)
"""Parts of a message that differ between tries."""
_COUNT = re.compile(r"^[0-9]+ ")
_NODES = re.compile(r"^[0-9]+/[0-9]+ nodes are available: ")


def image_pull(image: str, message: str) -> Wait:
    """An image that cannot be pulled, and why, if that is known."""
    shown = f'image "{one_line(image, 256)}", which cannot be pulled'
    why = _why_not_pulled(image, message)
    return Wait(f"{shown}: {why}" if why else shown)


def _why_not_pulled(image: str, message: str) -> str:
    rest = one_line(message, 2000)
    while match := _FORMALITIES.match(rest):
        rest = rest[match.end() :]
    name = re.split(r"[@:](?=[^/]*$)", image)[0]
    lowered = rest.replace(image, "").replace(name, "").lower()
    lowered = re.sub(r"sha256:[0-9a-f]+|https?://\S+", "", lowered)
    for pattern, why in _PULL_ERRORS:
        if pattern.search(lowered):
            return why
    return steady(rest.rpartition(": ")[2], 200)


def container(reason: str, message: str, image: str) -> Wait:
    """A container that waits for this `reason`, as its kubelet says."""
    if reason in QUIET:
        return ITS_CONTAINER
    if reason == "InvalidImageName":
        return Wait(f'a valid image name; "{one_line(image, 256)}" is none', in_vain=True)
    if reason in _IMAGE_REASONS:
        return image_pull(image, message)
    said = steady(message, LIMIT - 100)
    reason = one_line(reason, 64)
    return Wait(f"its container to start: {said} ({reason})" if said else f"its container to start: {reason}")


def scheduling(reason: str, message: str) -> Wait:
    """A pod for which no node was found yet, as the scheduler says."""
    if reason == "SchedulingGated":
        return Wait("its scheduling gates to be removed")
    said = one_line(message, 2000)
    nodes = _NODES.match(said)
    said = (said[nodes.end() :] if nodes else said).partition(". ")[0].rstrip(".")
    # The scheduler counts nodes and sorts by the counts, which change; what it says of them does not.
    parts = sorted({_COUNT.sub("", part) for part in re.split(r", (?=[0-9]+ )", said)} - {""})
    return Wait(one_line(f"a node: {', '.join(parts)}", LIMIT) if parts else "a node")


def steady(text: str, limit: int) -> str:
    """`text` on one line, without what changes from one try to the next."""
    return one_line(_PASSING.sub("…", one_line(text, 2 * limit)).rstrip(" ."), limit)
