"""HTML becomes its text, as a browser would read it: by the package selectolax (Lexbor).

Python's own html.parser is not used because it takes the square of the length of markup that is broken, and so may not
end on text of strangers. Lexbor keeps the tree of all that it reads, so a document larger than PAGE_BYTES is read in
parts.

Boilerplate goes by two signs: elements that hold what is beside the text of a page (nav, aside, button and the like),
and blocks more than half of whose text is in links, as in jusText (Pomikálek, "Removing Boilerplate and Duplicate
Content from Web Corpora", 2011, chapter 3).
"""

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from selectolax.lexbor import LexborHTMLParser

from costopt.schema.transforms import RemoveMarkup as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.transforms.blocks import BLOCK_BYTES, Changer

VERSION = 1
PAGE_BYTES = 8 * BLOCK_BYTES
MOST_UNCLOSED = 10_000
"""Tags in a page that must be closed, and are not. With more of them it is read in parts of PART_CHARACTERS: Lexbor
takes the square of how deep elements are nested."""
PART_CHARACTERS = 1 << 15
MAX_LINK_PERCENT = 50
"""Of the characters of a block, in links; more is boilerplate."""

_UNSEEN = frozenset(
    {"script", "style", "head", "template", "noscript", "svg", "math", "iframe", "object", "canvas", "-comment"}
)
_BOILERPLATE = frozenset({"nav", "header", "footer", "aside", "button", "select", "menu", "dialog"})
_BLOCKS = """
    address article blockquote body br caption center dd details div dl dt fieldset figcaption figure form h1 h2 h3
    h4 h5 h6 hr html legend li main ol option p pre section summary table tbody td tfoot th thead title tr ul
"""
_ENDS_A_BLOCK = frozenset(_BLOCKS.split()) | _UNSEEN | _BOILERPLATE
_NESTS = re.compile(r"<(?!p\b|li\b|br\b|hr\b|img\b|input\b|td\b|tr\b|th\b|dt\b|dd\b|option\b)[a-z]", re.IGNORECASE)
"""Tags of elements that the next of their kind does not close."""
_BEGINS_AS_HTML = re.compile(
    r"\ufeff?\s*(?:<\?xml[^>]{0,200}\?>\s*)?(?:<!--(?:(?!-->).){0,1000}-->\s*){0,8}"
    r"<(?:!doctype\s+html|(?:html|head|body|title|meta|div|p|h[1-6]|ul|ol|table|article|main|section|center|span)\b)",
    re.IGNORECASE | re.DOTALL,
)


class RemoveMarkup(Changer):
    """Takes the text out of HTML."""

    def __init__(self, settings: Transform) -> None:
        own = settings.remove_markup or Settings()
        self._all, self._keep_boilerplate = own.documents == "All", own.boilerplate == "Keep"

    def fingerprint(self) -> dict[str, Any]:
        """The settings, and the version of the parser."""
        return {
            "type": "RemoveMarkup",
            "version": VERSION,
            "all": self._all,
            "keepBoilerplate": self._keep_boilerplate,
            "selectolax": version("selectolax"),
        }

    def start(self) -> Callable[[str, bool], str]:
        """Looks at the first block to tell whether the document is HTML; then gathers blocks to pages."""
        held: list[str] = []
        is_html: bool | None = True if self._all else None

        def change(block: str, is_last: bool) -> str:
            nonlocal is_html
            if is_html is None:
                is_html = _BEGINS_AS_HTML.match(block) is not None
            if not is_html:
                return block
            held.append(block)
            if not is_last and (len(held) + 1) * BLOCK_BYTES <= PAGE_BYTES:
                return ""
            page = "".join(held)
            held.clear()
            return "".join(f"{line}\n" for part in _parts(page) for line in self._lines(part))

        return change

    def _lines(self, page: str) -> list[str]:
        reader = _Reader(keep_boilerplate=self._keep_boilerplate)
        root: Any = LexborHTMLParser(page).root
        node = root
        # Not by a function that calls itself: elements may be nested to any depth.
        while node is not None:
            child = node.first_child if reader.enters(node) else None
            if child is not None:
                node = child
                continue
            reader.leaves(node)
            while node.next is None:
                node = node.parent
                if node is None or node.mem_id == root.mem_id:
                    reader.end_block()
                    return reader.lines
                reader.leaves(node)
            node = node.next
        return reader.lines


def _parts(page: str) -> Iterator[str]:
    if len(_NESTS.findall(page)) - page.count("</") <= MOST_UNCLOSED:
        yield page
        return
    start = 0
    while start < len(page):
        stop = page.rfind("<", start + 1, start + PART_CHARACTERS) if start + PART_CHARACTERS < len(page) else len(page)
        stop = stop if stop > start else start + PART_CHARACTERS
        yield page[start:stop]
        start = stop


class _Reader:
    """The lines of one page, as its nodes are walked through."""

    def __init__(self, *, keep_boilerplate: bool) -> None:
        self.lines: list[str] = []
        self._keep_boilerplate = keep_boilerplate
        self._passed_over = _UNSEEN if keep_boilerplate else _UNSEEN | _BOILERPLATE
        self._links = self._preformatted = 0
        self._block: list[str] = []
        self._num_linked = 0
        """Characters of the block that are in links."""

    def enters(self, node: Any) -> bool:
        """Whether what is in the node is to be read."""
        tag = node.tag
        if node.is_text_node:
            self._block.append(node.text_content or "")
            if self._links:
                self._num_linked += sum(map(len, self._block[-1].split()))
            return False
        if tag in _ENDS_A_BLOCK:
            self.end_block()
        self._links += tag == "a"
        self._preformatted += tag == "pre"
        return tag not in self._passed_over

    def leaves(self, node: Any) -> None:
        """The node is over."""
        tag = node.tag
        if tag in _ENDS_A_BLOCK:
            self.end_block()
        self._links -= tag == "a"
        self._preformatted -= tag == "pre"

    def end_block(self) -> None:
        """Keep the block as a line, or those of preformatted text."""
        text = "".join(self._block)
        lines = text.strip("\n").split("\n") if self._preformatted else [" ".join(text.split())]
        num_signs = sum(map(len, text.split()))
        is_boilerplate = not self._keep_boilerplate and 100 * self._num_linked > MAX_LINK_PERCENT * num_signs
        if num_signs and not is_boilerplate:
            self.lines += lines
        self._block, self._num_linked = [], 0
