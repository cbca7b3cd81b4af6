"""Every mistake in the user's data is answered with one sentence that says what would be right."""

import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from builders.data import image_settings, refused_in_one_sentence, text_settings, write_images
from costopt.schema.data import DataSettings, Tokenizer
from costopt_trainer.data import load_data
from costopt_trainer.errors import NotRetryable

Mistake = Callable[[Path], DataSettings]


def text_file(content: bytes, **settings: object) -> Mistake:
    def make(folder: Path) -> DataSettings:
        (folder / "a.txt").write_bytes(content)
        return text_settings(folder / "a.txt", **settings)

    return make


def text_folder(*files: tuple[str, bytes]) -> Mistake:
    def make(folder: Path) -> DataSettings:
        (folder / "texts").mkdir()
        for name, content in files:
            (folder / "texts" / name).write_bytes(content)
        return text_settings(folder / "texts")

    return make


def dangling_link(folder: Path) -> DataSettings:
    (folder / "a.txt").symlink_to(folder / "gone")
    return text_settings(folder)


def pipe(folder: Path) -> DataSettings:
    os.mkfifo(folder / "a.txt")
    return text_settings(folder / "a.txt")


TEXT_MISTAKES: list[tuple[str, Mistake, str]] = [
    ("path missing", lambda folder: text_settings(folder / "none.txt"), "none.txt must exist on the machine"),
    ("path below a file", lambda folder: text_settings(Path("/dev/null/a")), "/dev/null/a must exist on the machine"),
    ("path too long", lambda folder: text_settings(folder / ("x" * 300)), "reading fails: File name too long"),
    ("path with a zero byte", lambda folder: text_settings(folder / "a\0b"), "must exist on the machine"),
    ("path is a device", lambda folder: text_settings(Path("/dev/zero")), "must be a file or a folder, not a"),
    ("path is a pipe", pipe, "must be a file or a folder, not a device, pipe or socket"),
    ("file empty", text_file(b""), "a.txt must hold text, but is empty"),
    ("folder empty", text_folder(), "must hold files that match include .*txt' and are not empty, but has none"),
    ("no file matches", text_folder(("a.md", b"text")), "must hold files that match include .*txt'"),
    ("all files empty", text_folder(("a.txt", b""), ("b.txt", b"")), "match include .*txt' and are not empty"),
    ("dangling link", dangling_link, "a.txt must exist on the machine"),
    ("limit within the first character", text_file("東京".encode(), max_bytes=2), "a.txt must hold text"),
    ("not UTF-8", text_file(b"good text" * 9 + b"\xff!" * 9), r"a.txt must be UTF-8 text, .* offset 81 \(0xff\)"),
    ("cut character at the end", text_file(b"good" + "é".encode()[:1]), r"must be UTF-8 text, .* offset 4 \(0xc3\)"),
    ("UTF-16", text_file("text".encode("utf-16")), r"must be UTF-8 text, but the byte at offset 0 \(0xff\)"),
    ("one bad file of many", text_folder(("a.txt", b"x" * 99), ("b.txt", b"\x80")), r"b.txt must be UTF-8 text"),
    (
        "shorter than a context",
        text_file(b"x" * 40),
        r"at least 33 tokens \(contextLength 32 and the one that follows\) to the validation split, but gives 4",
    ),
    ("exactly one token short", text_file(b"x" * 64, validation_percent=50), "33 tokens .* training .* gives 32"),
    (
        "byte pairs make it shorter",
        text_file(b"abcdefgh" * 60, tokenizer=Tokenizer(type="BPE", vocabulary_size=300)),
        "at least 33 tokens .* split, but gives",
    ),
]


@pytest.mark.parametrize(
    ("make", "sentence"), [row[1:] for row in TEXT_MISTAKES], ids=[row[0] for row in TEXT_MISTAKES]
)
def test_a_mistake_in_text_is_answered_in_one_sentence(tmp_path: Path, make: Mistake, sentence: str) -> None:
    refused_in_one_sentence(make(tmp_path), sentence, tmp_path / "cache")


def npz(**arrays: object) -> Mistake:
    def make(folder: Path) -> DataSettings:
        np.savez(folder / "a.npz", **arrays)
        return image_settings(folder / "a.npz")

    return make


def changed_npz(change: Callable[[bytes], bytes]) -> Mistake:
    def make(folder: Path) -> DataSettings:
        path = write_images(folder / "a.npz")
        path.write_bytes(change(path.read_bytes()))
        return image_settings(path)

    return make


def zip_of_rubbish(_: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("images.npy", "rubbish")
        archive.writestr("labels.npy", "rubbish")
    return stream.getvalue()


def flip_in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


PIXELS = np.zeros((6, 8, 8), dtype=np.uint8)
LABELS = np.arange(6) % 2

IMAGE_MISTAKES: list[tuple[str, Mistake, str]] = [
    ("missing", lambda folder: image_settings(folder / "none.npz"), "none.npz must exist on the machine"),
    ("a folder", image_settings, "must be an .npz file, not a folder"),
    ("empty", changed_npz(lambda _: b""), "must be a whole .npz file"),
    ("text", changed_npz(lambda _: b"hello" * 99), "must be a whole .npz file"),
    ("truncated", changed_npz(lambda content: content[:-30]), "must be a whole .npz file"),
    ("bit flipped", changed_npz(flip_in_the_middle), "must be a whole .npz file .* reading fails: Bad CRC"),
    ("zip of rubbish", changed_npz(zip_of_rubbish), "must hold arrays, but `images` is not one"),
    ("no images", npz(labels=LABELS), "must hold arrays `images` and `labels`, but lacks images"),
    ("no labels", npz(images=PIXELS), "but lacks labels"),
    ("other names", npz(x=PIXELS, y=LABELS), "but lacks images and labels"),
    ("float images", npz(images=PIXELS / 2, labels=LABELS), r"uint8 \(N, H, W\) .*, not float64 6x8x8"),
    ("flat images", npz(images=PIXELS.reshape(6, 64), labels=LABELS), "not uint8 6x64"),
    ("images without pixels", npz(images=PIXELS[:, :0], labels=LABELS), "not uint8 6x0x8"),
    ("no image", npz(images=PIXELS[:0], labels=LABELS[:0]), "not uint8 0x8x8"),
    ("one image", npz(images=PIXELS[:1], labels=LABELS[:1]), "at least 2 images"),
    ("pickled", npz(images=PIXELS, labels=np.array(["a", None] * 3, dtype=object)), "without pickles"),
    ("labels as text", npz(images=PIXELS, labels=np.array(list("ababab"))), "labels as whole numbers"),
    ("labels as floats", npz(images=PIXELS, labels=LABELS * 1.0), "labels as whole numbers .* not float64"),
    ("one-hot labels", npz(images=PIXELS, labels=np.eye(6, dtype=int)), "not int64 of 2 dimensions"),
    ("too few labels", npz(images=PIXELS, labels=LABELS[:5]), "5 labels for 6 images"),
    ("negative label", npz(images=PIXELS, labels=LABELS - 1), "count up from 0 .* span -1 to 0"),
    ("one class", npz(images=PIXELS, labels=LABELS * 0), "at least 2 classes, but they span 0 to 0"),
    ("labels far from 0", npz(images=PIXELS, labels=LABELS + 2**40), "count up from 0"),
]


@pytest.mark.parametrize(
    ("make", "sentence"), [row[1:] for row in IMAGE_MISTAKES], ids=[row[0] for row in IMAGE_MISTAKES]
)
def test_a_mistake_in_images_is_answered_in_one_sentence(tmp_path: Path, make: Mistake, sentence: str) -> None:
    refused_in_one_sentence(make(tmp_path), sentence, tmp_path / "cache")


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[None]:
    """Runs the test without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(0o755)
    nobody = 65534
    os.chown(tmp_path, nobody, -1)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, ordinary_user: None) -> None:
    for name, settings in (("a.txt", text_settings), ("a.npz", image_settings)):
        (tmp_path / name).write_bytes(b"x" * 999)
        (tmp_path / name).chmod(0)
        refused_in_one_sentence(
            settings(tmp_path / name), f"{name} must be readable by the user .*: Permission denied", tmp_path / "c"
        )


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, ordinary_user: None) -> None:
    (tmp_path / "texts" / "closed").mkdir(parents=True)
    (tmp_path / "texts" / "closed").chmod(0)
    refused_in_one_sentence(
        text_settings(tmp_path / "texts"), "closed must be readable .*: Permission denied", tmp_path / "c"
    )


def test_a_cache_that_may_not_be_written_is_named(tmp_path: Path, ordinary_user: None) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    settings = text_file(b"text " * 500)(tmp_path)
    refused_in_one_sentence(settings, "cache must be a writable folder .*: Permission denied", tmp_path / "cache")


def test_a_cache_whose_path_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    refused_in_one_sentence(text_file(b"text " * 500)(tmp_path), "cache must be a folder", tmp_path / "cache")


def test_text_without_a_context_length_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    with pytest.raises(ValueError, match="context length"):
        load_data(text_settings(tmp_path), context_length=None, cache_dir=tmp_path)


@pytest.mark.parametrize("settings", [text_settings(Path("none.txt")), image_settings(Path("none.npz"))])
def test_where_a_relative_path_was_looked_for_is_said(
    settings: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotRetryable, match=f"but does not; a relative path begins at {tmp_path}"):
        load_data(settings, context_length=16, cache_dir=tmp_path / "cache")
