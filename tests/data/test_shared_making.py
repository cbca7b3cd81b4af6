"""Tokens made by several makers on one folder: each share once, the same bytes as of one maker, whoever is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.data import text_settings
from costopt_trainer.data import load_data, made_once, marks, shares
from costopt_trainer.data.shares import parts_of, shares_of
from costopt_trainer.data.sources import text_files
from costopt_trainer.data.tokenizers.byte_pairs import BytePairTokenizer

LEARNED = BytePairTokenizer.train([b"to be or not to be, that is the question; to be, to be " * 20], 300)

texts = st.lists(st.text("ab \n\0é", max_size=40).filter(bool), max_size=30)


def in_order(pieces: list[str]) -> list[tuple[bool, bytes]]:
    """Two thirds of them to train on."""
    return [(number * 3 < len(pieces) * 2, piece.encode()) for number, piece in enumerate(pieces)]


@given(texts, st.integers(1, 50))
def test_shares_are_the_text_in_order_and_known_by_where_they_begin(pieces: list[str], size: int) -> None:
    given_pieces = in_order(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "SHARE_BYTES", size)
        found = [(share.number, share.position, list(share.pieces)) for share in shares_of(given_pieces)]
        skipped = [(share.number, share.position) for share in shares_of(given_pieces)]
    assert [piece for *_, own in found for piece in own] == given_pieces
    assert skipped == [(number, position) for number, position, _ in found], "also where nobody reads a share's text"
    position = 0
    for number, begins, own in found:
        assert (begins, begins // size) == (position, number)
        position += sum(len(piece) for _, piece in own)
    numbers = [number for number, *_ in found]
    assert numbers == sorted(set(numbers))


@given(texts)
def test_short_documents_are_tokenized_together_to_the_tokens_that_each_has(pieces: list[str]) -> None:
    given_pieces = in_order(pieces)
    parts = list(parts_of(given_pieces))
    for split in (True, False):
        alone, together = (
            [token for is_train, text in cut if is_train == split for token in LEARNED.encode(text).tolist()]
            for cut in (given_pieces, parts)
        )
        assert together == alone
    assert len(list(parts_of(in_order(["a", "\0", "b", "\0", "c"])))) == 2


class Killed(BaseException):
    """As sudden as SIGKILL: nothing is tidied up after it."""


class Begun:
    """Tokens whose holder was killed, and those who wait for it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.made: list[int] = []
        """Sizes of the parts that are tokenized from now on."""
        self.kill_at: int | None = None
        encode = BytePairTokenizer.encode

        def counted(tokenizer: BytePairTokenizer, piece: bytes) -> Any:
            self.made.append(len(piece))
            if self.kill_at == len(self.made):
                raise Killed
            return encode(tokenizer, piece)

        patch.setattr(BytePairTokenizer, "encode", counted)
        patch.setattr(shares, "SHARE_BYTES", 8_000)
        patch.setattr(text_files, "PIECE_BYTES", 4_000)
        patch.setattr(marks, "MARK_EVERY_SECONDS", 0.0)
        self.text = folder / "a.txt"
        self.text.write_text(" ".join(f"{number * number} or not {number}" for number in range(4_000)))
        self.settings = text_settings(self.text, tokenizer={"type": "BPE", "vocabularySize": 300})
        self.whole = self.tokens(folder / "alone")
        self.cache = folder / "cache"
        self.made.clear()
        self.kill_at = 8
        with pytest.raises(Killed):
            self.tokens(self.cache)
        self.made.clear()
        self.kill_at = None
        (partial,) = self.cache.glob(".*.partial")
        self.shares = partial.with_suffix(".shares")
        self.left = self.text.stat().st_size - (marks.bytes_made(partial) or 0)

    def tokens(self, cache: Path) -> dict[str, bytes]:
        data = load_data(self.settings, context_length=8, cache_dir=cache)
        (folder,) = (path for path in cache.iterdir() if path.is_dir() and not path.name.startswith("."))
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} | {"": data.fingerprint.encode()}

    def help(self) -> None:
        """As a process does that waits for the lock, once."""

        @contextlib.contextmanager
        def waiting(*arguments: Any) -> Iterator[None]:
            arguments[-1]()
            raise Killed
            yield

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(made_once, "locked", waiting)
            with pytest.raises(Killed):
                self.tokens(self.cache)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begun:
    return Begun(tmp_path, monkeypatch)


def test_what_those_make_who_wait_is_not_made_again(begun: Begun) -> None:
    assert 0 < begun.left < begun.text.stat().st_size, "the holder has marked some of it before it was killed"
    begun.help()
    assert sum(begun.made) == begun.left, "and they make none of that"
    begun.help()
    assert sum(begun.made) == begun.left, "nor what is there already"
    assert begun.tokens(begun.cache) == begun.whole
    assert sum(begun.made) == begun.left
    assert not begun.shares.exists()


def of_another_text(path: Path) -> None:
    header, _, tokens = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps({**json.loads(header), "text": "0" * 64}).encode() + b"\n" + tokens)


def other_tokens(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


@pytest.mark.parametrize(
    "harm",
    [
        of_another_text,
        other_tokens,
        a_link,
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: path.write_bytes(b'{"bytes": 9e99}\n'),
        lambda path: path.unlink(),
    ],
)
def test_a_share_that_is_not_as_it_was_written_is_made_again(begun: Begun, harm: Callable[[Path], object]) -> None:
    begun.help()
    harm(sorted(begun.shares.glob("*.tokens"))[2])
    begun.made.clear()
    assert begun.tokens(begun.cache) == begun.whole
    assert 0 < sum(begun.made) < begun.left / 2


HANGING = """
import fcntl, sys
claims = open(sys.argv[1], "r+b")
fcntl.lockf(claims, fcntl.LOCK_EX, 1 << 20, 0)
print("has all shares", flush=True)
sys.stdin.read()
"""


def test_a_maker_that_hangs_is_passed_by(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SILENT_SECONDS", 0.0)
    hanging = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(begun.shares / "claims")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert hanging.stdout is not None
    assert hanging.stdout.readline().startswith("has all")
    begun.help()
    assert begun.made == [], "they leave alone what somebody has"
    assert begun.tokens(begun.cache) == begun.whole
    hanging.communicate()


MAKERS = """
import contextlib, json, os, random, signal, socket, sys
from pathlib import Path
from costopt.schema.data import DataSettings
from costopt_trainer.data import load_data, marks, shares
from costopt_trainer.data.sources import text_files
from costopt_trainer.data.tokenizers.byte_pairs import BytePairTokenizer

shares.SHARE_BYTES, text_files.PIECE_BYTES, marks.MARK_EVERY_SECONDS = 16_000, 8_000, 0.0
settings, folder = DataSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2])
encode = BytePairTokenizer.encode

def make(cache, number, parts_left):
    socket.gethostname = lambda: f"machine-{number}"
    made = (cache / f"made-{number}").open("w")
    def counted(tokenizer, piece):
        nonlocal parts_left
        if parts_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        parts_left -= 1
        print(len(piece), file=made, flush=True)
        return encode(tokenizer, piece)
    BytePairTokenizer.encode = counted
    load_data(settings, context_length=8, cache_dir=cache)

for seed in range(int(sys.argv[3])):
    draw = random.Random(seed)
    cache = folder / f"cache-{seed}"
    cache.mkdir()
    # In the first round all live, in the second there is one alone. One lives in any.
    parts = [[-1] * 3, [-1]][seed] if seed < 2 else [draw.randrange(14), draw.randrange(14), -1]
    makers = []
    for number, left in enumerate(parts):
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                make(cache, number, left)
                status = 0
            os._exit(status)
        makers.append(pid)
    print(json.dumps([os.waitpid(pid, 0)[1] for pid in makers]), flush=True)
"""


@pytest.mark.slow
def test_makers_that_are_killed_at_any_moment_leave_the_tokens_of_one_maker(tmp_path: Path) -> None:
    rounds = 8
    (tmp_path / "a.txt").write_text(" ".join(f"{number * number} or not {number}" for number in range(20_000)))
    settings = text_settings(tmp_path / "a.txt", tokenizer={"type": "BPE", "vocabularySize": 300})
    asked = settings.model_dump_json(by_alias=True, exclude_none=True)
    told = subprocess.run(
        [sys.executable, "-c", MAKERS, asked, str(tmp_path), str(rounds)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    ends = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("[")]
    assert ends[0] == [0, 0, 0]
    assert all(end[-1] == 0 and set(end) <= {0, signal.SIGKILL} for end in ends)
    assert any(signal.SIGKILL in end for end in ends)
    tokens = []
    for seed in range(rounds):
        (folder,) = (path for path in (tmp_path / f"cache-{seed}").iterdir() if path.is_dir())
        tokens.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert all(own == tokens[0] for own in tokens)
    made = [sum(map(int, path.read_text().split())) for path in sorted((tmp_path / "cache-0").glob("made-*"))]
    assert sum(made) == (tmp_path / "a.txt").stat().st_size, "each share was made once"
