"""Run a command as on an x86 processor with AVX2 alone: without AVX-512, VNNI, AMX.

    python benchmarks/older_cpu COMMAND [ARGUMENT ...]

The command, and all that it starts, is told by `cpuid` that this processor has none of these (avx2_only.c), so torch,
oneDNN, FBGEMM, onnxruntime and compilers take their code for AVX2. Clock and caches stay those of this processor;
/proc/cpuinfo, which none of them reads on x86, says what it is; a statically linked program notices nothing.

Needs Linux on x86-64, a processor and kernel with CPUID faulting (`cpuid_fault` in /proc/cpuinfo), and a C compiler,
which builds the library once, into .cache/older_cpu. Where that cannot be, one sentence says so, and it ends with 69.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UNAVAILABLE = 69
"""EX_UNAVAILABLE of sysexits.h."""
_SOURCE = Path(__file__).with_name("avx2_only.c")
_BUILT = Path(__file__).resolve().parents[2] / ".cache" / "older_cpu"
_ARCH_PRCTL, _SET_CPUID = 158, 0x1012


class Impossible(Exception):
    """Why not, as a sentence without its subject."""


def main(command: list[str]) -> int:
    if not command:
        print("usage: python benchmarks/older_cpu COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    try:
        library = _library()
    except Impossible as error:
        print(f"cannot run it as on an older processor: {error}", file=sys.stderr)
        return UNAVAILABLE
    # What torch.compile keeps is not told apart by what compilers take "native" for.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(library.parent / "inductor"))
    before = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = f"{library}:{before}" if before else str(library)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
    return 127


def _library() -> Path:
    """The library, built if it is not there. Raises Impossible."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Impossible("that needs Linux on an x86-64 processor")
    # To allow `cpuid` changes nothing, and fails where it could not be forbidden either.
    if ctypes.CDLL(None, use_errno=True).syscall(_ARCH_PRCTL, _SET_CPUID, 1) != 0:
        raise Impossible(
            "this processor, its virtual machine or its kernel has no CPUID faulting (cpuid_fault in /proc/cpuinfo)"
        )
    library = _BUILT / f"{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        _build(library)
    return library


def _build(library: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Impossible("that needs a C compiler (cc, or the one that CC names)")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        words = [compiler, "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-o", str(made), str(_SOURCE), "-ldl"]
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        if told.returncode:
            raise Impossible(f"{compiler} cannot build {_SOURCE.name}: {told.stderr.strip().splitlines()[0]}")
        made.replace(library)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
