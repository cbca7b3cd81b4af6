"""What a manifest of an artifact may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from costopt.schema.artifact import ArtifactFile, formats_of

HASH = "0" * 64


def is_path(path: str) -> bool:
    try:
        ArtifactFile(path=path, size_bytes=0, sha256=HASH)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("path", ["model.safetensors", "a/b/c.json", ".hidden", "a..b", "ünïcode", "a b"])
def test_files_below_the_folder_are_named(path: str) -> None:
    assert is_path(path)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\nb", "a\\b", "x" * 1025])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    assert not is_path(path)


@given(st.text(alphabet="./\\a\0", max_size=9))
def test_no_path_that_is_taken_climbs(path: str) -> None:
    if is_path(path):
        assert ".." not in path.split("/")
        assert not path.startswith("/")


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, "0" * 65])
def test_a_hash_has_64_digits(digest: str) -> None:
    with pytest.raises(ValidationError):
        ArtifactFile(path="a", size_bytes=0, sha256=digest)


@pytest.mark.parametrize(
    ("paths", "by_a_program", "formats"),
    [
        (["config.json", "model.safetensors"], False, ["Safetensors"]),
        (["config.json", "costopt.json", "model.safetensors"], False, ["HuggingFace", "Safetensors"]),
        (["config.json", "model.safetensors"], True, ["HuggingFace", "Safetensors"]),
        (["config.json", "model.safetensors.index.json"], True, ["HuggingFace", "Safetensors"]),
        (["architecture.json", "costopt.json", "model.safetensors"], False, ["Safetensors"]),
        (["model.safetensors", "model.pt2", "model.onnx"], False, ["Safetensors", "TorchExport", "Onnx"]),
        (["adapter_model.safetensors", "adapter_config.json"], False, ["Adapter"]),
        (["below/weights"], True, []),
    ],
)
def test_formats_follow_from_the_files(paths: list[str], by_a_program: bool, formats: list[str]) -> None:
    assert formats_of(paths, by_a_program=by_a_program) == formats
