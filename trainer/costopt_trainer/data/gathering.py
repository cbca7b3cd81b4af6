"""Puts the shares of a text together, in order, and makes them as long as there are any.

Holder      of the text's lock: one process at a time
Changed     the text is another when it is read again
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from costopt_trainer.data.entropy import PairCounts
from costopt_trainer.data.marks import Marks
from costopt_trainer.data.shares import Piece, Share, Shares, Silence, shares_of
from costopt_trainer.data.tokenizing import Threads, write_share

WAIT_SECONDS = 0.1
"""Between two looks for a share that another makes."""


class Changed(Exception):
    """A text is another when it is read again."""


@dataclass
class _Awaited:
    """A share that was read, and whose tokens are not in the files."""

    number: int
    end: int
    """Where the next one begins, in bytes of the text."""
    text_digest: str


class Holder:
    """Puts the shares together, and makes them as long as there are any."""

    def __init__(
        self,
        text: Callable[[], Iterator[Piece]],
        marks: Marks,
        shares: Shares,
        threads: Threads,
        progress: Callable[[int | None], object],
    ) -> None:
        """`text`: the same at every call. `marks`: of the files of tokens, to train on and held out. `progress`: called
        for each piece of work, with the bytes of text that are done if these are known."""
        self._text, self._files, self._marks = text, marks.files, marks
        self._shares, self._threads, self._progress = shares, threads, progress
        self._position = 0
        """Up to where the tokens are in the files."""
        self._awaited: deque[_Awaited] = deque()
        self._put: list[int] = []
        """Shares of others that are in the files, and not marked yet."""

    def make(self, done: int) -> tuple[str, PairCounts]:
        """Everything from `done` on, which is the beginning of a share or the end of the text. The sha256 of the text,
        and what its held-out bytes are.

        Raises Changed if a share's text is another when it is read again.
        """
        self._position = done
        self._mark()
        content, counts = hashlib.sha256(), PairCounts()
        for share in shares_of(self._read(content, counts)):
            if share.position < done:
                for _ in share.pieces:
                    self._progress(None)
            else:
                self._make_or_await(share)
                self._put_what_is_there()
        while self._awaited:
            self._wait_for_the_next()
            self._make_the_missing()
            self._put_what_is_there()
        self._mark()
        return content.hexdigest(), counts

    def _read(self, content: Any, counts: PairCounts) -> Iterator[Piece]:
        for is_train, piece in self._text():
            content.update(piece)
            if not is_train:
                counts.add(piece)
            yield is_train, piece

    def _make_or_await(self, share: Share) -> None:
        is_own = self._shares.take(share.number)
        if is_own and not self._awaited:
            for is_train, part, tokens in self._threads.tokens(share.pieces):
                self._files[not is_train].write(tokens)
                self._position += len(part)
                self._shares.sign()
                self._progress(self._position)
            return
        text, position = hashlib.sha256(), share.position

        def read() -> Iterator[Piece]:
            nonlocal position
            for is_train, piece in share.pieces:
                text.update(piece)
                position += len(piece)
                yield is_train, piece

        if is_own:
            own = Share(share.number, share.position, read())
            write_share(own, self._shares, self._threads, self._progress)
        else:
            for _ in read():
                self._progress(None)
        self._awaited.append(_Awaited(share.number, position, text.hexdigest()))

    def _put_what_is_there(self) -> None:
        while self._awaited:
            first = self._awaited[0]
            tokens = self._shares.read(first.number, first.text_digest)
            if tokens is None:
                break
            for file, own in zip(self._files, tokens, strict=True):
                file.write(own)
            self._position = first.end
            self._put.append(self._awaited.popleft().number)
            self._progress(self._position)
        if self._marks.are_due():
            self._mark()

    def _mark(self) -> None:
        self._marks.write(self._position)
        self._shares.forget(self._put)
        self._put.clear()

    def _wait_for_the_next(self) -> None:
        """Until the next share is there, or is to be made here."""
        silence = Silence(self._shares.signs)
        while self._awaited:
            self._put_what_is_there()
            if not self._awaited or self._shares.take(self._awaited[0].number) or silence.is_long():
                return
            time.sleep(WAIT_SECONDS)
            if not silence.goes_on():
                self._progress(self._position)

    def _make_the_missing(self) -> None:
        """The next share, whoever has it, and those that nobody has."""
        missing = {awaited.number: awaited.text_digest for awaited in self._awaited}
        for share in shares_of(self._text()):
            if not missing:
                return
            self._progress(None)
            digest = missing.pop(share.number, None)
            if digest is None:
                continue
            is_next = share.number == self._awaited[0].number
            if (self._shares.take(share.number) or is_next) and digest != write_share(
                share, self._shares, self._threads, self._progress
            ):
                raise Changed
