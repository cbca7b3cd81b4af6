"""A library keeps all that it does when its GPU kernels are taken out, and stand-ins load but cannot be called."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from images import cpu_torch, dependencies

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("readelf") is None, reason="needs a C++ compiler and readelf"
)

KERNELS = 1 << 20
SOURCE = f"""
extern "C" {{
const unsigned char before[70000] = {{1}};
__attribute__((section(".nv_fatbin"), aligned(8))) const unsigned char kernels[{KERNELS}] = {{7, 7}};
int counted = 41;
static int zeros[9000];
thread_local int mine = 5;
int kernel_byte(int at) {{ return kernels[at]; }}
int answer() {{ try {{ throw counted + before[0]; }} catch (int value) {{ return value + zeros[8999] + mine - 5; }} }}
int ncclGetVersion(int *);
int cudnnGetVersion();
int call() {{ try {{ return cudnnGetVersion() + ncclGetVersion(nullptr); }} catch (...) {{ return -7; }} }}
}}
"""


def build(path: Path, source: str, *options: str) -> Path:
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-x", "none", "-o", str(path), f"-Wl,-soname,{path.name}"]
    subprocess.run([*command, *options], input=source, text=True, check=True)
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library that links to two of NVIDIA's, one with a version; both are gone once it is built."""
    (tmp_path / "versions").write_text("libcudnn.so.9 { global: cudnnGetVersion; };")
    cudnn = build(
        tmp_path / "libcudnn.so.9",
        'extern "C" int cudnnGetVersion() { return 9; }',
        f"-Wl,--version-script={tmp_path / 'versions'}",
    )
    nccl = build(tmp_path / "libnccl.so.2", 'extern "C" int ncclGetVersion(int *) { return 2; }')
    # A long note at the file's beginning leaves room for program headers, which torch's libraries have too.
    options = ("-Wl,-rpath,$ORIGIN", "-Wl,-z,now", f"-Wl,--build-id=0x{'ab' * 160}")
    path = build(tmp_path / "libtorch_cuda.so", SOURCE, str(cudnn), str(nccl), *options)
    cudnn.unlink()
    nccl.unlink()
    return path


def told(library: Path, *calls: str) -> str:
    """What functions of a library answer in a process of its own: where torch is, NVIDIA's libraries are loaded too."""
    program = "import ctypes, sys; library = ctypes.CDLL(sys.argv[1])\nfor call in sys.argv[2:]: print(eval(call))"
    ended = subprocess.run(
        [sys.executable, "-c", program, str(library), *calls], capture_output=True, text=True, check=False
    )
    return ended.stdout + ended.stderr


def test_with_stand_ins_a_library_is_loaded_whole_and_a_call_is_an_error_that_can_be_caught(library: Path) -> None:
    assert "cannot open shared object" in told(library)
    wanted = cpu_torch.missing([cpu_torch.Linked.read(library)])
    assert wanted == {
        "libcudnn.so.9": {"libcudnn.so.9": {"cudnnGetVersion"}},
        "libnccl.so.2": {"": {"ncclGetVersion"}},
    }
    for name, symbols in wanted.items():
        cpu_torch.stand_in(library.parent / name, symbols)
    assert told(library, "library.call()") == "-7\n"
    linked = subprocess.run(["ldd", "-r", str(library)], capture_output=True, text=True, check=True)
    assert not re.search("no version information|undefined symbol|not found", linked.stdout + linked.stderr)


def test_a_library_without_its_kernels_is_smaller_and_does_the_same(library: Path) -> None:
    for name, symbols in cpu_torch.missing([cpu_torch.Linked.read(library)]).items():
        cpu_torch.stand_in(library.parent / name, symbols)
    before = library.stat()
    cpu_torch.shrink(library)
    after = library.stat()
    assert before.st_size - after.st_size > KERNELS - 2 * cpu_torch.PAGE
    assert after.st_mode == before.st_mode
    answers = told(library, "library.answer()", f"library.kernel_byte({KERNELS // 2})", "library.call()")
    assert answers == "42\n0\n-7\n"


def test_the_libraries_that_compiled_kernels_are_linked_to_stay_as_they_are(library: Path, tmp_path: Path) -> None:
    libraries, nvidia = tmp_path / "torch" / "lib", tmp_path / "nvidia" / "cu13" / "lib"
    libraries.mkdir(parents=True)
    nvidia.mkdir(parents=True)
    shutil.copy(library, libraries / "libtorch_cuda.so")
    cpu = build(libraries / "libtorch_cpu.so", "int answer() { return 42; }")
    before = cpu.read_bytes()
    for name in cpu_torch.NEVER_LOADED:
        shutil.copy(library, libraries / name)
    runtime = build(nvidia / "libcudart.so.13", "int nothing;")
    shutil.copy(runtime, nvidia / "libcublas.so.13")
    cpu_torch.make(tmp_path)
    assert cpu.read_bytes() == before
    assert told(libraries / "libtorch_cuda.so", "library.call()") == "-7\n"
    assert [path.name for path in nvidia.iterdir()] == ["libcudart.so.13"]
    assert {path.name for path in libraries.iterdir()} == {
        *("libtorch_cuda.so", "libtorch_cpu.so", "libcudnn.so.9", "libnccl.so.2")
    }


def test_a_symbol_of_an_unknown_library_stops_the_build(library: Path) -> None:
    linked = cpu_torch.Linked.read(library)
    other = cpu_torch.Linked("liba.so", frozenset(), frozenset(), frozenset({("curandCreate", "")}), frozenset())
    with pytest.raises(cpu_torch.UnexpectedTorch, match="curandCreate"):
        cpu_torch.missing([linked, other])


def test_a_torch_that_is_not_built_for_cuda_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(cpu_torch.UnexpectedTorch, match="not built for CUDA"):
        cpu_torch.make(tmp_path)
    with pytest.raises(cpu_torch.UnexpectedTorch, match="no cuda-toolkit"):
        dependencies.for_cpus("Name: torch\nRequires-Dist: filelock\n")


def test_torchs_metadata_asks_for_two_libraries_of_cuda_and_for_all_that_is_not_nvidias() -> None:
    metadata = distribution("torch").read_text("METADATA")
    assert metadata is not None
    if "cuda-toolkit" not in metadata:
        pytest.skip("needs a torch built for CUDA")
    kept = re.findall(r"^Requires-Dist: ([A-Za-z-]+)(\S*)", dependencies.for_cpus(metadata), re.MULTILINE)
    assert ("cuda-toolkit", "[cudart,cupti]==13.0.3;") in kept
    names = {name for name, _ in kept}
    assert {"filelock", "sympy", "jinja", "fsspec"} <= names
    assert not [name for name in names if name.startswith(("nvidia", "triton", "cuda-bindings"))]
