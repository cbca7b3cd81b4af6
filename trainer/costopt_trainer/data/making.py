"""Makes tokens from a text, share by share: with others, and after a kill the next maker goes on where one was.

make_tokens     by the process that holds the text's lock: it puts the shares together, in order (see gathering.py)
help_to_make    by processes of other machines that wait for it: they make shares, too (see shares.py)

The tokens are the same for any number of makers and threads. The holder makes shares like all others; one whose turn it
is goes straight into the files (see marks.py), others are written down until it is. A share whose maker was killed, or
says nothing any more, is made by the holder once no other is left. Memory is bounded by a share.
"""

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from costopt.files import write_atomically
from costopt.hostile import make_folder, read_file
from costopt_trainer.data.documents import split_pieces
from costopt_trainer.data.entropy import PairCounts
from costopt_trainer.data.gathering import Changed, Holder
from costopt_trainer.data.marks import (
    MAX_TOKENIZER_BYTES,
    TOKENIZER_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
    GrowingFile,
    Mark,
    Marks,
    hash_of_start,
    read_mark,
)
from costopt_trainer.data.shares import Piece, Shares, shares_of
from costopt_trainer.data.tokenizers.table import TextTokenizer, TokenizerKind
from costopt_trainer.data.tokenizing import Threads, write_share
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import Pieces, phase
from costopt_trainer.storage.folders import remove


@dataclass(frozen=True)
class Wanted:
    """The source of the tokens."""

    name: str
    """The text's name in errors."""
    stream: Callable[[], Iterator[bytes]]
    """The text as one stream, the same pieces at every call."""
    tokenizer: TokenizerKind
    num_train_bytes: int
    num_bytes: int
    content_digest: str
    """sha256 of the text as one stream."""
    key: str

    def pieces(self) -> Iterator[Piece]:
        """The text as one stream, each piece with True if it is training text."""
        return split_pieces(self.stream(), self.num_train_bytes)


@dataclass(frozen=True)
class Made:
    """Everything that was made."""

    vocabulary_size: int
    counts: PairCounts
    """Of the held-out text."""


def changed_meanwhile(name: str) -> NotRetryable:
    """The error for a text that changes between readings."""
    return NotRetryable("InvalidData", f"{name} must not change while a job reads it, but did between two readings")


def files_of(tokenizer: TokenizerKind) -> set[str]:
    """The names of the token files."""
    return {TRAIN_FILE, VALIDATION_FILE, *((TOKENIZER_FILE,) if tokenizer.learns else ())}


def make_tokens(folder: Path, wanted: Wanted) -> Made:
    """Write the token files to `folder`, or their missing part; the caller holds the text's lock.

    Raises NotRetryable("InvalidData") if the text changes meanwhile.
    """
    with phase("ReadingData", alone=True) as pieces:
        mark = _valid_mark(folder, wanted, pieces)
    tokenizer = read_tokenizer(folder, wanted.tokenizer) if mark is not None else None
    if tokenizer is None:
        mark = None
        remove(folder)
        _remove_shares(folder)
        folder.mkdir()
        tokenizer = _new_tokenizer(folder, wanted)
    make_folder(shares_folder(folder))
    with (
        GrowingFile(folder / TRAIN_FILE, mark) as train,
        GrowingFile(folder / VALIDATION_FILE, mark) as validation,
        Threads(tokenizer) as threads,
        phase("Tokenizing", alone=True) as pieces,
    ):
        marks = Marks(folder, wanted.key, (train, validation))
        with Shares(shares_folder(folder), wanted.key, marks.tokenizer_digest) as shares:
            shares.claim_machine()
            told = _progress(pieces, wanted)
            holder = Holder(wanted.pieces, marks, shares, threads, told)
            try:
                digest, counts = holder.make(mark.position if mark else 0)
            except Changed:
                raise changed_meanwhile(wanted.name) from None
        if digest != wanted.content_digest:
            raise changed_meanwhile(wanted.name)
        if threads.num_bytes < wanted.num_bytes - (mark.position if mark else 0):
            _tell(threads, wanted)
    marks.remove()
    _remove_shares(folder)
    return Made(tokenizer.vocabulary_size, counts)


def help_to_make(folder: Path, key: str, kind: TokenizerKind, text: Callable[[], Wanted | None]) -> bool:
    """Make shares of the text of `key`, which the holder of its lock puts together in `folder`, while there are any.

    False: there is nothing to help with yet, or another process of this machine helps. Only then `text` is asked for
    it; None: it is not there yet. Raises OSError and ValueError if the holder is through meanwhile, or begins anew.
    """
    mark = read_mark(folder, key, files_of(kind))
    if mark is None or not shares_folder(folder).exists():
        return False
    with Shares(shares_folder(folder), key, mark.tokenizer_digest) as shares:
        tokenizer = read_tokenizer(folder, kind) if shares.claim_machine() else None
        wanted = text() if tokenizer is not None else None
        if tokenizer is None or wanted is None:
            return False
        with Threads(tokenizer) as threads, phase("Tokenizing") as pieces:
            told = _progress(pieces, wanted)
            for share in shares_of(wanted.pieces()):
                # What is marked is kept by the holder: its share is there no more.
                if shares.take(share.number) and share.position >= _marked(folder, wanted):
                    write_share(share, shares, threads, told)
                pieces.done()
            _tell(threads, wanted)
    return True


def _tell(threads: Threads, wanted: Wanted) -> None:
    """One line in the log of each machine that makes a part."""
    made, of = threads.num_bytes, wanted.num_bytes
    print(f"tokenized {made:,} of {of:,} bytes of text here, the rest was made elsewhere", file=sys.stderr, flush=True)


def _marked(folder: Path, wanted: Wanted) -> int:
    """How far the text is in the files. Raises OSError if its holder is through."""
    mark = read_mark(folder, wanted.key, files_of(wanted.tokenizer))
    if mark is None:
        raise FileNotFoundError(str(folder))
    return mark.position


def _progress(pieces: Pieces, wanted: Wanted) -> Callable[[int | None], object]:
    return lambda done: pieces.done(done, wanted.num_bytes)


def _remove_shares(partial: Path) -> None:
    """Under another name first, so that no helper puts anything into what is being removed."""
    folder = shares_folder(partial)
    with contextlib.suppress(OSError):
        remove(folder.rename(folder.with_suffix(f".{secrets.token_hex(4)}.removed")))


def shares_folder(partial: Path) -> Path:
    """Where the shares of tokens lie that are made in `partial`."""
    return partial.with_suffix(".shares")


def read_tokenizer(folder: Path, kind: TokenizerKind) -> TextTokenizer | None:
    """The tokenizer of that kind that an earlier maker learned; None if it is not the wanted one."""
    if not kind.learns:
        return kind.learn(())
    try:
        text = read_file(folder / TOKENIZER_FILE, max_bytes=MAX_TOKENIZER_BYTES).decode()
        return kind.from_json(text)
    except (OSError, ValueError):
        return None


def _new_tokenizer(folder: Path, wanted: Wanted) -> TextTokenizer:
    if not wanted.tokenizer.learns:
        return wanted.tokenizer.learn(())
    with phase("LearningTokenizer", alone=True) as pieces:

        def train_pieces() -> Iterator[bytes]:
            position = 0
            for is_train, piece in wanted.pieces():
                if is_train:
                    yield piece
                position += len(piece)
                pieces.done(position, wanted.num_bytes)
            pieces.percent = None  # the next call takes an unknown time

        tokenizer = wanted.tokenizer.learn(train_pieces())
    write_atomically(folder / TOKENIZER_FILE, tokenizer.to_json().encode())
    return tokenizer


def _valid_mark(folder: Path, wanted: Wanted, pieces: Pieces) -> Mark | None:
    """The mark in `folder`, if it is of this text and the files are as it says; None: start again."""
    mark = read_mark(folder, wanted.key, files_of(wanted.tokenizer))
    if mark is None or not 0 <= mark.position <= wanted.num_bytes or not _is_border(mark.position, wanted, pieces):
        return None
    try:
        for name, (num_bytes, digest) in mark.files.items():
            pieces.done()
            if hash_of_start(folder / name, num_bytes).hexdigest() != digest:
                return None
    except (OSError, ValueError):
        return None
    return mark


def _is_border(position: int, wanted: Wanted, pieces: Pieces) -> bool:
    """Whether a share of the text begins there, or the text ends: other files may divide the same content
    differently."""
    reached = 0
    for share in shares_of(wanted.pieces()):
        if share.position >= position:
            return share.position == position
        for _, piece in share.pieces:
            reached += len(piece)
            pieces.done(reached, position)
    return reached == position
