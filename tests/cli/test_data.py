"""`costopt data`: the tables, what it refuses, and the program as users start it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from builders.cli import TRAINING, costopt, write_manifest
from builders.local import job
from costopt.cli.data import recipe_of
from costopt.cli.data_views import views
from costopt.cli.safe_console import SafeConsole
from costopt.local.run_folder import RunFolder
from costopt.refused import Refused
from costopt.schema.data_report import DataReport, Example, SamplesReport, TransformReport, report_in

CLEANED = {
    **TRAINING,
    "data": {**TRAINING["data"], "transforms": [{"type": "NormalizeWhitespace"}, {"type": "RemoveDuplicates"}]},
}


def report(**own: Any) -> DataReport:
    dropped = Example(document="b.txt", before="a duplicate", why="equal to an earlier document: a.txt")
    changed = Example(document="c.txt", before="…[email]\\x1b", after="…[email]")
    duplicates = TransformReport(
        type="RemoveDuplicates",
        documents=1200,
        changed=0,
        dropped=34,
        bytes_before=5678,
        bytes_after=4567,
        reasons={"equal to an earlier document": 33, "nearly equal to a held-out document": 1},
        examples=[dropped],
    )
    white = duplicates.model_copy(
        update={"type": "NormalizeWhitespace", "dropped": 0, "reasons": {}, "examples": [changed]}
    )
    fields: dict[str, Any] = {
        "source": "data.text.path: texts",
        "documents": 1200,
        "bytes": 6789,
        "longest_document": "long.txt",
        "longest_bytes": 2048,
        "transforms": [white, duplicates],
        "documents_left": 1166,
        "held_out_documents": 100,
        "vocabulary_size": 256,
        "train_tokens": 4000,
        "validation_tokens": 567,
    }
    return DataReport(**{**fields, **own})


def printed(shown: DataReport | SamplesReport, width: int = 100) -> str:
    stream = io.StringIO()
    console = SafeConsole(file=stream, width=width, highlight=False)
    for view in views(shown):
        console.print(view)
    return stream.getvalue()


def test_the_report_says_what_was_read_dropped_and_made() -> None:
    text = printed(report())
    for words in (
        "data.text.path: texts",
        "2.00 KiB: long.txt",
        "RemoveDuplicates",
        "equal to an earlier document ",
        "nearly equal to a held-out document ",
        "b.txt: equal to an earlier document: a.txt",
        "- …[email]\\x1b",
        "+ …[email]",
        "1,166",
        "4,000",
    ):
        assert words in text
    assert "sample" not in text
    assert "(a sample: the first documents only)" in printed(report(sampled=True))


def test_a_name_cannot_steer_the_terminal() -> None:
    text = printed(report(longest_document="a\x1b]0;title\x07b", source="\x1b[2Jx"))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_a_narrow_terminal_crops_no_figure() -> None:
    text = printed(report(), width=40)
    assert "1,166" in text
    assert "5,678" in text


def test_without_transforms_there_is_nothing_of_them() -> None:
    text = printed(report(transforms=[], held_out_documents=None))
    assert "Transforms" not in text
    assert "documents left" not in text


def _of(plain: dict[str, Any]) -> str:
    return printed(report_in(plain))


def test_tokens_images_and_rows_are_shown_too() -> None:
    tokens = _of(
        {
            "kind": "Tokens",
            "source": "data.tokenShards.path: t",
            "numFiles": 30,
            "numberType": "UInt16",
            "files": [{"name": f"{number}.bin", "count": 1000 + number} for number in range(30)],
            "vocabularySize": 50257,
            "lookedAt": 4096,
            "highestToken": 50256,
            "endOfTextToken": 50256,
            "documents": 17,
            "trainTokens": 27000,
            "validationTokens": 3435,
            "sampled": True,
        }
    )
    for words in ("50,257, highest token 50,256", "17 in the first 4,096 tokens", "27,000", "19.bin", "and 10 more"):
        assert words in tokens
    assert "20.bin" not in tokens
    classes = [{"name": "cat", "count": 1200, "examples": ["cat/1.png", "cat/2.png"]}, {"name": "dog", "count": 3}]
    images = _of(
        {
            "kind": "Images",
            "source": "data.imageFolder.path: i",
            "images": 1203,
            "numClasses": 2,
            "classes": classes,
            "sizes": [{"name": "32x48", "count": 1203}],
            "shape": "32x48x3",
            "trainImages": 1083,
            "validationImages": 120,
            "notes": ["2 of 1,205 samples are bad and left out"],
        }
    )
    for words in ("1,203", "cat/1.png, cat/2.png", "1,200", "32x48", "1,083", "2 of 1,205 samples are bad"):
        assert words in images
    rows = _of(
        {
            "kind": "Table",
            "source": "data.table.path: t.npz",
            "rows": 1500,
            "features": 12,
            "numClasses": 2,
            "constantFeatures": 1,
            "classes": [{"name": "0", "count": 900}, {"name": "1", "count": 600}],
            "trainRows": 1350,
            "validationRows": 150,
        }
    )
    for words in ("1,500", "features always the same", "missing values", "900", "1,350"):
        assert words in rows


def test_what_has_no_recipe_is_refused() -> None:
    with pytest.raises(Refused, match=r"must have a recipe; a command reads its data itself$"):
        recipe_of(job())


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    write_manifest(tmp_path, train={"recipe": CLEANED})
    before = sorted(path.name for path in tmp_path.iterdir())
    answer = costopt(tmp_path, "data", "job.yaml", "--dry-run")
    assert answer.returncode == 0, answer.stderr
    assert "(a sample: the first documents only)" in answer.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_tokens_stay_where_the_job_will_look_for_them(tmp_path: Path) -> None:
    write_manifest(tmp_path, train={"recipe": CLEANED})
    answers = [costopt(tmp_path, "data", "job.yaml", "--output", "json") for _ in range(2)]
    assert [answer.returncode for answer in answers] == [0, 0], answers[0].stderr
    first, again = (json.loads(answer.stdout) for answer in answers)
    assert first == again
    assert first["documents"] == 1
    (run,) = (tmp_path / "runs").iterdir()
    RunFolder(run).create()
    (tmp_path / "text.txt").unlink()
    answer = costopt(tmp_path, "data", "job.yaml")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "must exist on the machine" in answer.stderr


def test_a_folder_with_tokens_and_no_mark_is_something_elses(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with pytest.raises(Refused, match="cache is in it"):
        RunFolder(tmp_path).create()
    (tmp_path / ".costopt-storage").touch()
    RunFolder(tmp_path).create()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(Refused, match=r"notes\.txt is in it"):
        RunFolder(tmp_path).create()
