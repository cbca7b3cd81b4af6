"""What a manifest says of a machine and of a licence."""

from pathlib import Path

import pytest

from costopt.schema.artifact import Lineage
from costopt_trainer.machine import machine_here, told_of_cpu
from costopt_trainer.storage.manifests import describe, licence_in

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor @ 2.60GHz
flags\t\t: fpu vme avx avx2 fma avx512f avx512_vnni amx_int8 amx_bf16 sse4_2 hypervisor

processor\t: 1
model name\t: another
flags\t\t: avx512_bf16
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm sve\nCPU part\t: 0xd40\n"


def test_of_a_processor_its_name_and_what_kernels_ask_for_are_told() -> None:
    name, instructions = told_of_cpu(XEON)
    assert name == "Intel(R) Xeon(R) Processor @ 2.60GHz"
    assert instructions == ["amx_bf16", "amx_int8", "avx", "avx2", "avx512_vnni", "avx512f", "fma"]
    assert told_of_cpu(ARM) == ("0xd40", ["asimd", "asimddp", "i8mm", "sve"])
    assert told_of_cpu("") == (None, [])


def test_a_processor_of_anybodys_making_does_no_harm() -> None:
    name, instructions = told_of_cpu("model name: \x1b[2J" + "x" * 1000 + "\nflags: " + "avx512" + "z" * 1000 + " avx2")
    assert name is not None
    assert (len(name), "\x1b" in name, instructions) == (256, False, ["avx2"])


def test_this_machine_tells_of_itself() -> None:
    machine = machine_here()
    assert machine.threads >= 1
    assert machine.versions["python"].startswith("3.")
    assert machine_here(device="A GPU").device == "A GPU"


FRONT = "---\nlanguage: en\n{}\n---\n# A model\nlicense: later\n"


@pytest.mark.parametrize(
    ("readme", "config", "licence"),
    [
        (FRONT.format("license: apache-2.0"), None, "apache-2.0"),
        (FRONT.format('license: "mit"').replace("\n", "\r\n"), None, "mit"),
        (FRONT.format("licence: cc-by-4.0"), None, "cc-by-4.0"),
        (FRONT.format("license:\n- mit\n- other"), None, None),
        ("# A model\nlicense: mit\n", None, None),
        (None, '{"license": "gpl-3.0"}', "gpl-3.0"),
        (FRONT.format("tags: x"), '{"license": "gpl-3.0"}', "gpl-3.0"),
        (None, '{"license": ["x"]}', None),
        (None, "{", None),
        (None, None, None),
    ],
)
def test_a_licence_is_what_the_models_own_folder_says(
    tmp_path: Path, readme: str | None, config: str | None, licence: str | None
) -> None:
    for name, content in (("README.md", readme), ("config.json", config)):
        if content is not None:
            (tmp_path / name).write_text(content, newline="")
    assert licence_in(tmp_path) == licence
    assert licence_in(None) is None


def test_a_manifest_that_a_copied_folder_brings_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    (tmp_path / "manifest.json").write_text("of another")
    written = describe(tmp_path, "model", Lineage(job="tiny"))
    assert [file.path for file in written.files] == ["weights"]
    assert (tmp_path / "manifest.json").read_text().startswith("{")
