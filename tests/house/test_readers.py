"""Every file that is read is read through `costopt.hostile`, but for those named here with the reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [path for room in ("costopt", "trainer") for path in sorted((ROOT / room).rglob("*.py"))]

KERNEL = "what the kernel tells of this machine"
USERS = "a file that the user has named: links are the user's, and a pipe may be meant"
LOOKED_AT = "open_file has looked at this very file just before"

ALLOWED = {
    ("costopt/cli/live.py", "unheard"): "leads nowhere",
    ("costopt/cli/logs.py", "logs"): "leads nowhere",
    ("costopt/cli/outlet.py", "_nowhere"): "leads nowhere",
    ("costopt/cli/validate.py", "_bytes_of"): USERS,
    ("costopt/files.py", "mark_storage"): "made by this very call, and by no other (x)",
    ("costopt/files.py", "sync_folder"): "a folder, of which nothing is read",
    ("costopt/files.py", "write_atomically"): "made by this very call, and by no other (x)",
    ("costopt/hostile.py", "_open"): "the one place",
    ("costopt/hostile.py", "parse_json"): "the one place",
    ("costopt/isolation.py", "passed_on"): KERNEL,
    ("costopt/local/artifact_copies.py", "_copied_here"): "made by this very call, and by no other (x)",
    ("costopt/local/artifact_copies.py", "_copied_away"): "written behind a URL, and not read",
    ("costopt/local/processes.py", "_environment"): KERNEL,
    ("costopt/local/processes.py", "start_time"): KERNEL,
    ("costopt/oom_kills.py", "_candidates"): KERNEL,
    ("costopt/oom_kills.py", "count_oom_kills"): KERNEL,
    ("costopt/schema/lenient_parse.py", "read_known"): "what a model's parser has read already",
    ("costopt/service_account.py", "_read"): "the kubelet's own files, which are links",
    ("trainer/costopt_trainer/models/artifact.py", "load_model"): LOOKED_AT,
    ("trainer/costopt_trainer/models/hugging_face/source.py", "_hash_of"): USERS,
    ("trainer/costopt_trainer/models/hugging_face/source.py", "_weights_in"): USERS,
    ("trainer/costopt_trainer/storage/checkpoint_files.py", "_damage_in_header"): LOOKED_AT,
    ("trainer/costopt_trainer/storage/checkpoint_files.py", "_stored_tensors"): LOOKED_AT,
    ("trainer/costopt_trainer/storage/checkpoint_files.py", "read_tensors"): LOOKED_AT,
    ("trainer/costopt_trainer/storage/tensor_file.py", "write_file"): "made by this very call, and by no other (x)",
    ("trainer/costopt_trainer/storage/tensor_file.py", "write_tensor_file"): "made by this very call as well (x)",
    (
        "trainer/costopt_trainer/compress/compressed_folder.py",
        "find_mismatch",
    ): "in a folder that was made for this process alone",
    ("trainer/costopt_trainer/compress/torch_export.py", "main"): "in a folder that was made for this process alone",
    ("trainer/costopt_trainer/compress/verify.py", "find_mismatch"): "in a folder that was made for this process alone",
    ("trainer/costopt_trainer/data/sources/npz_file.py", "load_arrays"): USERS,
    ("trainer/costopt_trainer/data/pixels.py", "_make"): "made by this very call, and by no other (x)",
    ("trainer/costopt_trainer/data/sources/image_folder.py", "_decode"): "bytes that are in memory already",
    ("trainer/costopt_trainer/data/sources/image_folder.py", "_sizes"): "a stream that the one place has opened",
    ("trainer/costopt_trainer/data/marks.py", "__init__"): LOOKED_AT,
    ("trainer/costopt_trainer/data/files/packed.py", "unpacked"): USERS,
    ("trainer/costopt_trainer/data/files/remote.py", "_copy"): "made by this very call",
    ("trainer/costopt_trainer/data/transformed.py", "_write"): "made by this very call, and by no other (x)",
    ("trainer/costopt_trainer/data/sources/standard_library.py", "_is_utf8"): "Python's own library",
    ("trainer/costopt_trainer/reporting/meter.py", "process_age_ns"): KERNEL,
    ("trainer/costopt_trainer/launch/hangs.py", "is_stopped"): KERNEL,
    ("trainer/costopt_trainer/trial/inputs.py", "_decoded"): "bytes that are in memory already",
    ("trainer/costopt_trainer/cgroup.py", "_quota"): KERNEL,
    ("trainer/costopt_trainer/compress/footprint.py", "_anonymous_bytes"): KERNEL,
}
"""(File, function) -> why it may read by itself."""

READING = {"read_text", "read_bytes", "open", "safe_open"}


def reads(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(Function, call) for each call that opens a file, or parses JSON, by itself."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.rpartition(".")[2] in READING or called in ("json.load", "json.loads"):
                yield function, called
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function)

    return walk(tree, "")


def found() -> dict[tuple[str, str], list[str]]:
    calls: dict[tuple[str, str], list[str]] = {}
    for path in SHIPPED:
        for function, called in reads(ast.parse(path.read_text())):
            calls.setdefault((str(path.relative_to(ROOT)), function), []).append(called)
    return calls


def test_no_file_is_read_past_the_one_place_that_bounds_it() -> None:
    assert {place: calls for place, calls in found().items() if place not in ALLOWED} == {}


def test_no_exception_outlives_its_reason() -> None:
    assert ALLOWED.keys() - found().keys() == set()


@pytest.mark.parametrize(
    "line", ["path.read_text()", "open(x)", "os.open(x, y)", "json.loads(x)", "path.open('rb')", "safe_open(x)"]
)
def test_a_line_that_reads_is_found(line: str) -> None:
    assert [function for function, _ in reads(ast.parse(f"def f():\n    {line}"))] == ["f"]
