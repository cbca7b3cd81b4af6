"""Error answers of an API server, or of a proxy before it -> a sentence. Two tables: one of answers, one of
certificates.

The server's own words often quote addresses of nodes and of other programs, and bodies may be pages made for a browser:
those words are repeated only if they help a user.
"""

import re
from dataclasses import dataclass

ADDRESS = re.compile(
    r"""\b(?:https?|wss?|tcp|unix)://[^\s"'<>]+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-f:]+\]:\d+"""
)
"""Addresses inside the cluster: no use to a user, and not for everybody."""


@dataclass(frozen=True)
class Trouble:
    """An answer by its code and words, and the sentence that says what it means."""

    codes: tuple[int, ...]
    words: str
    """A pattern in the server's words; empty: any words."""
    sentence: str
    """Follows the cluster's name; may use the pattern's groups."""


OF_LOGS = (400, 404, 500)
"""Codes of the API server, or the kubelet behind it, about a log."""

KUBELET = r"/containerLogs/|:10250|proxy error from|error dialing backend|No agent available|tunnel"

TROUBLES = (
    # Before all that look for addresses: a webhook's may look like a kubelet's.
    Trouble(
        (500,),
        r"failed calling webhook \"?(?P<hook>[\w.-]+)",
        "could not ask the admission webhook {hook}, which does not answer; whoever runs it must mend it",
    ),
    Trouble(
        OF_LOGS,
        r"container \S+ in pod \"?(?P<pod>[\w.-]+)\"? is waiting to start: (?P<why>\w+)",
        "has no log of pod {pod} yet: its container is waiting to start ({why})",
    ),
    Trouble(
        OF_LOGS, r"previous terminated container", "has no log of a container before this one; read the present one's"
    ),
    Trouble(
        OF_LOGS,
        r"container \"?[\w-]*\"? ?(is )?not found|container not found|is not valid for pod",
        "has no such container in that pod",
    ),
    Trouble(
        OF_LOGS,
        r"unable to retrieve container logs|failed to try resolving symlinks|no such file or directory",
        "has no log of that container any more: its node has removed it",
    ),
    Trouble(
        (500, 502, 503, 504),
        KUBELET,
        "cannot read the log: the node that runs the pod does not answer; the job goes on or is restarted by itself, "
        "so try again when the node is back (`kubectl get nodes` shows it)",
    ),
    Trouble((500, 503, 504), r"etcdserver|etcd", "cannot reach its own database at the moment; try again"),
    Trouble((410,), "", "cannot go on with a list that has become too old; repeat the command"),
    Trouble((408, 504), "", "did not answer in time (code {code}); try again"),
    Trouble((429,), "", "is busy (code 429) and stays so; try again in a minute"),
    Trouble((502, 503), "", "is not ready, or what stands before it does not reach it (code {code}); try again"),
    Trouble(
        tuple(range(300, 400)),
        "",
        "sends to another address, as a login page does; log in, or mend the kubeconfig's server",
    ),
    Trouble((405, 406, 415), "", "does not answer as an API server does (code {code}); check the kubeconfig"),
)
"""The first that fits counts."""


CERTIFICATES = (
    (
        r"self[- ]signed|unable to get (local )?issuer|unable to verify the first certificate",
        "is signed by an authority that your kubeconfig does not know; mend the cluster's certificate-authority there",
    ),
    (
        r"mismatch|not valid for|doesn't match",
        "is for another name than {host}; name the server in the kubeconfig as its certificate does",
    ),
    (r"has expired", "has expired, if the clock of this machine is right; whoever runs the cluster must renew it"),
    (r"not yet valid", "is not valid yet; check the clock of this machine"),
    (r"", "is not accepted ({said}); whoever runs the cluster must mend it"),
)
"""Result of verifying a server's certificate -> a sentence about it. The first that fits counts."""

OUR_CERTIFICATE = r"ALERT_(BAD_CERTIFICATE|CERTIFICATE_|UNKNOWN_CA|UNSUPPORTED_CERTIFICATE|ACCESS_DENIED)"
"""TLS alerts by which a server, or a proxy before it, refuses the user's certificate."""


def certificate_sentence(said: str, host: str) -> str:
    """What is wrong with a server's certificate; follows its name."""
    return next(
        sentence.format(said=said, host=host)
        for words, sentence in CERTIFICATES
        if re.search(words, said, re.IGNORECASE)
    )


def sentence_of(code: int, said: str) -> str | None:
    """What the answer means; follows the cluster's name. None: not in the table."""
    for trouble in TROUBLES:
        found = re.search(trouble.words, said)
        if code in trouble.codes and found is not None:
            return trouble.sentence.format(code=code, **found.groupdict())
    return None


def is_page(body: bytes) -> bool:
    """Whether the body is a web page."""
    return body.lstrip()[:1] == b"<"


def without_addresses(said: str) -> str:
    """The server's words without addresses inside the cluster."""
    return ADDRESS.sub("...", said)
