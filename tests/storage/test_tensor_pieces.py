"""Tensors cut into pieces by any layout are read by any other, to the bit; pieces that are none of a tensor are not."""

import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from costopt.hostile import Hostile
from costopt_trainer.errors import NotRetryable
from costopt_trainer.storage import checkpoint_files
from costopt_trainer.storage.checkpoint_files import (
    damage_in,
    manifest_content,
    read_tensors,
    write_tensors,
)
from costopt_trainer.storage.tensor_file import write_file
from costopt_trainer.storage.tensor_pieces import DTYPES, MAX_CORNERS, Box, Shard, merge_tensors, parse_tensors

FILE = "model-00000-00000.safetensors"
STEP = 1


def write_checkpoint(folder: Path, ranks: list[dict[str, Tensor | list[Shard]]]) -> None:
    """A checkpoint's model, of which each rank writes what it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _stream: None)  # no power cut comes in between
        written = [write_tensors(folder, "model", rank, held) for rank, held in enumerate(ranks)]
        files = {name: record for records, _ in written for name, record in records.items()}
        content = manifest_content(STEP, "test", files, merge_tensors(table for _, table in written))
        write_file(folder / "manifest.json", content)


def cuts(data: st.DataObject, shape: tuple[int, ...]) -> list[Box]:
    """A tensor of this shape cut into blocks: one after the other is cut in two, along any dimension."""
    boxes = [Box.whole(shape)]
    for _ in range(data.draw(st.integers(0, 6))):
        box = boxes.pop(data.draw(st.integers(0, len(boxes) - 1)))
        if not shape:
            boxes.append(box)
            continue
        dim = data.draw(st.integers(0, len(shape) - 1))
        at = data.draw(st.integers(0, box.shape[dim]))
        for start, extent in ((0, at), (at, box.shape[dim] - at)):
            offsets, extents = list(box.offsets), list(box.shape)
            offsets[dim] += start
            extents[dim] = extent
            boxes.append(Box(tuple(offsets), tuple(extents)))
    return boxes


def block(tensor: Tensor, box: Box) -> Tensor:
    return tensor[box.slices_in(Box.whole(tuple(tensor.shape)))]


def same_bits(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and save({"a": one.contiguous()}) == save(
        {"a": other.contiguous()}
    )


@settings(max_examples=100)
@given(data=st.data())
def test_however_tensors_are_cut_and_by_whomever_written_any_other_cut_reads_the_same_bits(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-cut"
    ranks: list[dict[str, Any]] = [{} for _ in range(data.draw(st.integers(1, 4)))]
    tensors = {}
    for name in ("a", "b/exp_avg", "c"):
        shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
        dtype = data.draw(st.sampled_from(sorted(DTYPES)))
        tensors[name] = torch.randint(0, 2 if dtype == "BOOL" else 100, shape).to(DTYPES[dtype])
        boxes = cuts(data, shape)
        boxes += boxes[: data.draw(st.integers(0, 2))]  # and some ranks hold copies
        for box in data.draw(st.permutations(boxes)):
            writer = data.draw(st.integers(0, len(ranks) - 1))
            shard = Shard(block(tensors[name], box), box.offsets, shape)
            ranks[writer].setdefault(name, []).append(shard)
    write_checkpoint(folder, ranks)
    assert damage_in(folder, STEP, "test") is None

    assert all(same_bits(read, tensors[name]) for name, read in read_tensors(folder, "model").items())
    for name, tensor in tensors.items():
        for box in cuts(data, tuple(tensor.shape)):
            read = read_tensors(folder, "model", name.__eq__, lambda _name, _shape, box=box: box)
            assert read.keys() == {name}
            assert same_bits(read[name], block(tensor, box))


def test_only_the_files_that_hold_a_part_of_what_is_wanted_are_opened(tmp_path: Path) -> None:
    rows = torch.arange(12.0).reshape(4, 3)
    write_checkpoint(tmp_path / "a", [{"a": [Shard(rows[n : n + 1], (n, 0), (4, 3))]} for n in range(4)])
    for rank in (0, 3):
        (tmp_path / f"a/model-{rank:05d}-00000.safetensors").unlink()
    read = read_tensors(tmp_path / "a", "model", region=lambda _name, _shape: Box((1, 1), (2, 2)))
    assert torch.equal(read["a"], rows[1:3, 1:3])


def test_only_the_bytes_of_what_is_wanted_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of one large piece never becomes the whole tensor."""
    write_checkpoint(tmp_path / "a", [{"a": torch.arange(10_000.0).reshape(100, 100)}])
    opened = checkpoint_files.safe_open

    class Sliced:
        def __init__(self, path: Path, framework: str) -> None:
            self.file = opened(path, framework=framework)

        def __enter__(self) -> Self:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def get_slice(self, key: str) -> Any:
            return self.file.get_slice(key)

    monkeypatch.setattr(checkpoint_files, "safe_open", Sliced)
    read = read_tensors(tmp_path / "a", "model", region=lambda _name, _shape: Box((98, 0), (2, 3)))
    assert torch.equal(read["a"], torch.tensor([[9800.0, 9801.0, 9802.0], [9900.0, 9901.0, 9902.0]]))


def test_a_region_outside_of_a_tensor_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", [{"a": torch.zeros(4)}])
    with pytest.raises(ValueError, match="is not a part of a, which has the shape"):
        read_tensors(tmp_path / "a", "model", region=lambda _name, _shape: Box((3,), (2,)))


def table(*pieces: tuple[list[Any], list[Any]], shape: Any = (4, 4), **changes: Any) -> dict[str, Any]:
    """A table with one tensor, made of pieces at these offsets, of these shapes."""
    told = [{"file": FILE, "offsets": offsets, "shape": extents} for offsets, extents in pieces]
    return {"model": {"a": {"dtype": "F32", "shape": list(shape), "pieces": told, **changes}}}


QUARTERS = [([row, column], [2, 2]) for row, column in product((0, 2), (0, 2))]
NOT_COVERED = "has no piece for a part of model 'a'"
OVERLAP = "has pieces that overlap in model 'a'"
OUTSIDE = "has a piece outside of model 'a'"
DIMENSIONS = "has a piece of model 'a' with another number of dimensions"
NUMBERS = "gives model 'a' a shape or offsets that are not whole numbers"

REFUSED = [
    ("no table", None, "has no table of tensors"),
    ("an unknown kind", {"weights": {}}, "has tensors of an unknown kind, 'weights'"),
    ("no kinds", {"model": []}, "has no table of tensors"),
    ("nothing", table(), NOT_COVERED),
    ("a hole", table(*QUARTERS[:3]), NOT_COVERED),
    ("a hole and a piece too many", table(*QUARTERS[:2], ([0, 1], [2, 2]), ([2, 0], [2, 2])), OVERLAP),
    ("a piece in another", table(([0, 0], [4, 4]), ([1, 1], [1, 1])), OVERLAP),
    ("overlapping halves", table(([0, 0], [3, 4]), ([2, 0], [2, 4])), OVERLAP),
    ("a piece that reaches too far", table(*QUARTERS[:3], ([2, 2], [2, 3])), OUTSIDE),
    ("a piece far away", table(*QUARTERS, ([2**62, 0], [2, 2])), OUTSIDE),
    ("too few dimensions", table(([0], [16])), DIMENSIONS),
    ("too many dimensions", table(([0, 0, 0], [4, 4, 1])), DIMENSIONS),
    ("negative offsets", table(([-1, 0], [5, 4])), NUMBERS),
    ("a negative shape", table(([0, 0], [4, 4]), shape=(-4, -4)), NUMBERS),
    ("half a row", table(([0, 0], [4, 0.5])), NUMBERS),
    ("true", table(([0, 0], [True, 4]), shape=(1, 4)), NUMBERS),
    ("very many dimensions", table(([0] * 60, [1] * 60), shape=[1] * 60), "gives model 'a' more than 5 dimensions"),
    ("an unknown dtype", table(*QUARTERS, dtype="X"), "gives model 'a' an unknown dtype"),
    ("a list of dtypes", table(*QUARTERS, dtype=[]), "gives model 'a' an unknown dtype"),
    ("pieces by name", table(pieces={}), "does not list the pieces of model 'a'"),
    ("a piece without file", table(pieces=[{}]), "does not give file, offsets and shape of each piece of model 'a'"),
    ("no tensor", {"model": {"\x1b[2J": None}}, r"does not give dtype, shape and pieces of model '\x1b[2J'"),
    (
        "a file that is not there",
        table(pieces=[{"file": "model-00001-00000.safetensors", "offsets": [0, 0], "shape": [4, 4]}]),
        "has a piece of model 'a' in a file that is none of its own",
    ),
    (
        "a file of another kind",
        {"optimizer": table(*QUARTERS)["model"]},
        "has a piece of optimizer 'a' in a file that is none of its own",
    ),
]


@pytest.mark.parametrize(("plain", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_pieces_that_are_not_those_of_a_tensor_are_refused_in_words(plain: Any, words: str) -> None:
    with pytest.raises(Hostile) as refused:
        parse_tensors(plain, {FILE})
    assert str(refused.value) == words


@pytest.mark.parametrize(
    "plain",
    [
        table(*QUARTERS),
        table(*QUARTERS, *QUARTERS),
        table(([0, 0], [4, 4]), ([2, 2], [0, 2])),
        table(shape=(0, 4)),
        table(([], []), shape=()),
        {},
    ],
    ids=["quarters", "copies", "one without elements", "none of nothing", "a number", "no tensors"],
)
def test_pieces_that_tile_a_tensor_are_taken(plain: Any) -> None:
    parse_tensors(plain, {FILE})


def elements(box: Box) -> set[tuple[int, ...]]:
    return set(product(*(range(start, end) for start, end in zip(box.offsets, box.ends, strict=True))))


@given(data=st.data())
def test_a_cover_is_taken_if_and_only_if_each_element_is_in_one_of_the_bounds(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    boxes = set(cuts(data, shape))
    if data.draw(st.booleans()):
        spans = [sorted(data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))) for _ in shape]
        boxes.add(Box(tuple(a for a, _ in spans), tuple(b - a for a, b in spans)))
    if data.draw(st.booleans()):
        boxes -= {data.draw(st.sampled_from(sorted(boxes, key=str)))}
    held = [element for box in boxes for element in elements(box)]
    inside = all(end <= extent for box in boxes for end, extent in zip(box.ends, shape, strict=True))
    tiled = inside and len(held) == len(set(held)) and set(held) == elements(Box.whole(shape))
    plain = table(*((list(box.offsets), list(box.shape)) for box in boxes), shape=shape)
    try:
        parse_tensors(plain, {FILE})
    except Hostile:
        assert not tiled
    else:
        assert tiled


def test_a_hundred_thousand_pieces_are_checked_without_comparing_each_with_each() -> None:
    rows = [([row, 0], [1, 4]) for row in range(100_000)]
    parse_tensors(table(*rows, shape=(100_000, 4)), {FILE})
    with pytest.raises(Hostile, match="has no piece for a part of"):
        parse_tensors(table(*rows[:-1], shape=(100_000, 4)), {FILE})


def put_another_dtype(held: dict[str, Tensor]) -> None:
    held["a"] = held["a"].to(torch.float64)


def put_another_shape(held: dict[str, Tensor]) -> None:
    held["a"] = torch.zeros(5)


def rename_it(held: dict[str, Tensor]) -> None:
    held["b"] = held.pop("a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put_another_dtype, f"{FILE} has 'a' with another dtype or shape than manifest.json says"),
        (put_another_shape, f"{FILE} has 'a' with another dtype or shape than manifest.json says"),
        (rename_it, f"{FILE} lacks the tensor 'a'"),
    ],
    ids=["dtype", "shape", "name"],
)
def test_a_file_that_holds_other_tensors_than_the_manifest_says_is_damage(
    change: Callable[[dict[str, Tensor]], None], words: str, tmp_path: Path
) -> None:
    held = {"a": torch.zeros(4)}
    write_checkpoint(tmp_path / "a", [dict(held)])
    (tmp_path / "a/manifest.json").rename(tmp_path / "manifest.json")
    table_before = merge_tensors([write_tensors(tmp_path, "model", 0, held)[1]])
    change(held)
    (tmp_path / "a" / FILE).unlink()
    files, _ = write_tensors(tmp_path / "a", "model", 0, held)
    write_file(tmp_path / "a/manifest.json", manifest_content(STEP, "test", files, table_before))
    assert damage_in(tmp_path / "a", STEP, "test") == words


def test_a_manifest_that_nobody_could_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {FILE: {"size": 1, "sha256": ""}}
    with pytest.raises(Hostile, match=r"manifest.json has no piece for a part of model 'a'"):
        manifest_content(STEP, "test", record, table(*QUARTERS[:3]))
    monkeypatch.setattr(checkpoint_files, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(NotRetryable, match="use fewer ranks or larger tensors"):
        manifest_content(STEP, "test", record, table(*QUARTERS))


def test_ranks_that_disagree_on_a_tensor_are_told() -> None:
    for other in (table(*QUARTERS, dtype="F64"), table(*QUARTERS, shape=(4, 5))):
        with pytest.raises(ValueError, match="ranks hold a with other dtypes or global shapes"):
            merge_tensors([table(*QUARTERS), other])


def test_pieces_of_many_dimensions_are_refused_before_they_take_the_memory_of_the_check() -> None:
    shape = [1, 1, 1, 1, MAX_CORNERS >> 5]
    pieces = [{"file": FILE, "offsets": [0, 0, 0, 0, place], "shape": [1] * 5} for place in range(shape[-1] + 1)]
    with pytest.raises(Hostile, match="has more pieces than are read of model 'a'"):
        parse_tensors({"model": {"a": {"dtype": "F32", "shape": shape, "pieces": pieces}}}, {FILE})
