"""References in the value of an environment variable, as a kubelet resolves them.

`$(NAME)` is the value of a variable set earlier; an unknown one stays as written, and `$$` is one `$`.
"""

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(\$|\([^)]*\))")


def resolved(text: str, known: Mapping[str, str]) -> str:
    """The text with its references replaced."""

    def replacement(found: re.Match[str]) -> str:
        what = found[1]
        return "$" if what == "$" else known.get(what[1:-1], found[0])

    return _REFERENCE.sub(replacement, text)
