"""The pages of the documentation, their fenced blocks, and the commands in them.

A fence's info string gives the kind of block:

    sh       commands, one per line, whose output is not shown
    console  commands after `$ `, each followed by its output; a line `...` stands for any lines
    yaml     a document that is valid as it is
    python   lines that tests/docs/test_loading.py runs
    text     a drawing, or the layout of a folder: not typed, and not printed by a program
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("sh", "console", "yaml", "python", "text")

PAGES = tuple(
    sorted(
        str(path.relative_to(ROOT))
        for folder in (".", "docs", "docs/techniques", "benchmarks", "charts/costopt")
        for path in (ROOT / folder).glob("*.md")
    )
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    """Line of its opening fence, from 1."""
    heading: str
    """The second-level heading above it; empty above the first."""
    info: str
    """The fence's info string: the block's class."""
    text: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a block, as written."""

    page: str
    line: int
    heading: str
    text: str
    """What is typed; continued lines are joined."""
    shown: str | None
    """Its output; None in a block of class sh, which shows none."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, text: str | None = None) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    found: list[Block] = []
    begun: tuple[int, str, list[str]] | None = None
    heading = ""
    for number, line in enumerate((read(page) if text is None else text).splitlines(), start=1):
        if begun is None:
            if line.lstrip().startswith("```"):
                begun = number, line.strip().removeprefix("```").strip(), []
            elif line.startswith("## "):
                heading = line.removeprefix("## ").strip()
        elif line.strip() == "```":
            found.append(Block(page, begun[0], heading, begun[1], "".join(f"{each}\n" for each in begun[2])))
            begun = None
        else:
            begun[2].append(line)
    if begun is not None:
        raise ValueError(f"{page}:{begun[0]}: this fence is not closed")
    return found


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a block of class sh or console; none of any other."""
    if block.info == "sh":
        for offset, line in _joined(block.text):
            typed = re.sub(r"(^|\s)#.*", "", line).strip()
            if typed:
                yield Command(block.page, block.line + offset, block.heading, typed, None)
    elif block.info == "console":
        yield from _with_output(block)


def commands(page: str) -> list[Command]:
    """All commands of a page, in their order."""
    return [command for block in blocks(page) for command in commands_of(block)]


def all_commands() -> list[Command]:
    """All commands of all pages."""
    return [command for page in PAGES for command in commands(page)]


def _with_output(block: Block) -> Iterator[Command]:
    typed: tuple[int, str] | None = None
    shown: list[str] = []
    for offset, line in _joined(block.text):
        if line.startswith("$ "):
            if typed is not None:
                yield Command(block.page, block.line + typed[0], block.heading, typed[1], "\n".join(shown))
            typed, shown = (offset, line.removeprefix("$ ").strip()), []
        elif typed is not None:
            shown.append(line)
        elif line.strip():
            raise ValueError(f"{block.place}: a block of class console begins with `$ ` and a command")
    if typed is None:
        raise ValueError(f"{block.place}: a block of class console has a command after `$ `")
    yield Command(block.page, block.line + typed[0], block.heading, typed[1], "\n".join(shown))


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their offsets from the fence; a line that ends in a backslash continues on the next."""
    pending, since = "", 0
    for offset, line in enumerate(text.splitlines(), start=1):
        since = since or offset
        pending += line.lstrip() if pending else line
        if pending.endswith("\\"):
            pending = f"{pending.removesuffix(chr(92)).rstrip()} "
            continue
        yield since, pending
        pending, since = "", 0
