"""Make of PyPI's torch, which is built for CUDA, one for CPUs that needs none of NVIDIA's large libraries.

Nothing that a CPU runs is changed: the code of torch's libraries stays as it is, to the byte. Without a GPU they behave
as they always do on a machine without one.

- `shrink` leaves out of a library what is not code for this CPU: kernels for GPUs, tables for linkers and debuggers.
- `stand_in` builds an empty shared library with the name, versions and functions that torch links to. torch calls none
  of them without a GPU; if one is called after all, it raises an error that names it.
"""

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Loaded by torch only for linear algebra and compilation on a GPU.
NEVER_LOADED = ("libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so")
# These two small ones are called without a GPU too: one counts the devices, the other serves the profiler.
STAY = ("libcudart.so", "libcupti.so")
# Stems of the libraries that may be stood in for, each the beginning of its functions' names.
ABSENT = (
    "cublas",
    "cublasLt",
    "cudnn",
    "cuFile",
    "cufft",
    "curand",
    "cusparse",
    "cusparseLt",
    "nccl",
    "nvrtc",
    "nvshmem",
)
KERNELS = ".nv_fatbin"
NOTE_SECTION = 7
PAGE = 65536  # the largest page of the machines that torch is built for


class UnexpectedTorch(Exception):
    """torch's files are not laid out as this program expects; the image must not be built."""


def make(packages: Path) -> None:
    """Turn the torch below `packages`, a folder of site-packages, into one for CPUs."""
    libraries, nvidia = packages / "torch" / "lib", packages / "nvidia"
    if not (libraries / "libtorch_cuda.so").exists():
        raise UnexpectedTorch(f"{libraries} has no libtorch_cuda.so: this torch is not built for CUDA")
    for name in NEVER_LOADED:
        (libraries / name).unlink()
    for path in sorted(nvidia.rglob("*")):
        if path.is_file() and not path.name.startswith(STAY):
            path.unlink()
    linked = [Linked.read(path) for path in sorted([*libraries.glob("*.so*"), *nvidia.rglob("*.so*")])]
    for name, symbols in missing(linked).items():
        stand_in(libraries / name, symbols)
    # The others stay as they are: kernels that torch.compile builds are linked to them, which takes section headers.
    shrink(libraries / "libtorch_cuda.so")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UnexpectedTorch(f"{name} is not installed")
    return found


@dataclass(frozen=True)
class Linked:
    """What a shared library needs and offers, as the dynamic linker sees it."""

    name: str
    needs: frozenset[str]
    versions: frozenset[tuple[str, str]]  # of libraries it needs: (library, version)
    undefined: frozenset[tuple[str, str]]  # (symbol, version or nothing)
    defined: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> "Linked":
        text = subprocess.run(
            [_program("readelf"), "--wide", "--dynamic", "--dyn-syms", "--version-info", str(path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        library, versions = "", set[tuple[str, str]]()
        for kind, word in re.findall(r"(File|Name): (\S+)  (?:Cnt|Flags)", text.partition("Version needs section")[2]):
            if kind == "File":
                library = word
            else:
                versions.add((library, word))
        #      Num:    Value  Size  Type   Bind   Vis   Ndx  Name@Version
        symbols = re.findall(r"^ *\d+: [0-9a-f]+ +\S+ +\S+ +(\S+) +\S+ +(\S+) ([^\s@]+)@{0,2}(\S*)", text, re.MULTILINE)
        return cls(
            path.name,
            frozenset(re.findall(r"\(NEEDED\).*\[(.+)\]", text)),
            frozenset(versions),
            frozenset((name, version) for bind, where, name, version in symbols if where == "UND" and bind == "GLOBAL"),
            frozenset(name for _, where, name, _ in symbols if where != "UND"),
        )


Symbols = dict[str, set[str]]  # by version; those without one under the empty text


def missing(linked: list[Linked]) -> dict[str, Symbols]:
    """What must be stood in for so that `linked` can be loaded: symbols by version, by library."""
    present = {one.name for one in linked}
    absent: dict[str, Symbols] = {}
    for name in sorted({need for one in linked for need in one.needs} - present):
        if name.lower().startswith(tuple(f"lib{stem.lower()}" for stem in ABSENT)):
            absent[name] = {}
    for library, version in {pair for one in linked for pair in one.versions}:
        if library in absent:
            absent[library][version] = set()
    defined = {symbol for one in linked for symbol in one.defined}
    for symbol, version in {pair for one in linked for pair in one.undefined}:
        if symbol in defined or not symbol.startswith(ABSENT):
            continue
        stem = max((stem for stem in ABSENT if symbol.startswith(stem)), key=len)
        homes = [name for name in absent if re.fullmatch(rf"lib{stem}(_host)?\.so\.\d+", name, re.IGNORECASE)]
        if len(homes) != 1 or (version and version not in absent[homes[0]]):
            raise UnexpectedTorch(f"{symbol} ({version or 'no version'}) belongs to no library of {sorted(absent)}")
        absent[homes[0]].setdefault(version, set()).add(symbol)
    return absent


def stand_in(path: Path, symbols: Symbols) -> None:
    """Build a shared library named as `path` whose functions only raise an error."""
    functions = "\n".join(
        f'extern "C" void {name}() {{ absent("{name}"); }}' for name in sorted(set().union(*symbols.values()))
    )
    source = (
        "#include <stdexcept>\n#include <string>\n"
        "[[noreturn]] static void absent(const char *name) {\n"
        '  throw std::runtime_error(std::string(name) + ": this image is for CPUs and has no CUDA libraries");\n'
        f"}}\n{functions}\n"
    )
    # A symbol without a version must not be named in the script: the linker then leaves it as it is.
    script = "\n".join(
        f"{version} {{ {'global: ' if names else ''}{''.join(f'{name}; ' for name in sorted(names))}}};"
        for version, names in sorted(symbols.items())
        if version
    )
    versions = path.with_suffix(".versions")
    versions.write_text(script)
    command = [
        _program("g++"),
        "-shared",
        "-fPIC",
        "-O2",
        "-s",
        "-x",
        "c++",
        "-",
        f"-Wl,-soname,{path.name}",
        "-o",
        str(path),
    ]
    subprocess.run(
        [*command, *([f"-Wl,--version-script={versions}"] if script else [])], input=source, text=True, check=True
    )
    versions.unlink()


@dataclass
class Segment:
    """A program header of a 64-bit ELF file: what the dynamic linker maps, or something inside of that."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    in_file: int
    in_memory: int
    alignment: int

    FORMAT = "<IIQQQQQQ"
    LOAD = 1
    NOTES = (4, 0x6474E553)  # for debuggers, and of features of the processor that not all libraries share

    def holds(self, address: int) -> bool:
        return self.kind == self.LOAD and self.address <= address < self.address + max(self.in_memory, 1)


def shrink(path: Path) -> None:
    """Write a shared library anew with only what is loaded into memory, and zeros there for GPU kernels.

    Section headers, notes, debuggers' symbols and kernels are left out; every other byte keeps its address. The zeros
    are a segment that exists in memory alone and is never touched, so that it costs nothing.
    """
    old = path.read_bytes()
    if old[:6] != b"\x7fELF\x02\x01":
        raise UnexpectedTorch(f"{path} is no 64-bit little-endian ELF file")
    table, sections = struct.unpack_from("<QQ", old, 32)
    size, count, section_size, section_count, names_index = struct.unpack_from("<HHHHH", old, 54)
    segments = [Segment(*struct.unpack_from(Segment.FORMAT, old, table + size * index)) for index in range(count)]
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", old, sections + section_size * index) for index in range(section_count)
    ]
    segments = [segment for segment in segments if segment.kind not in Segment.NOTES]
    names = headers[names_index][4]
    for name, _, _, address, _, length, *_ in headers:
        if old[names + name : old.index(b"\0", names + name)] == KERNELS.encode():
            segments = without(segments, -(-address // PAGE) * PAGE, (address + length) // PAGE * PAGE)
    first = min(offset for _, kind, _, _, offset, length, *_ in headers if kind not in (0, NOTE_SECTION) and length)
    if table != 64 or table + size * len(segments) > first:
        raise UnexpectedTorch(f"{path} has no room for {len(segments)} program headers")
    loads = [segment for segment in segments if segment.kind == Segment.LOAD]
    new, moved = bytearray(), dict[int, int]()  # the new offset of each address at which a segment begins
    for load in loads:
        start = len(new) + (load.address - len(new)) % PAGE if load.in_file else load.address % PAGE
        new.extend(bytes(max(start - len(new), 0)))
        new.extend(old[load.offset : load.offset + load.in_file])
        moved[load.address] = start
    for segment in segments:
        for load in loads:
            if segment.in_memory and load.holds(segment.address):
                segment.offset = moved[load.address] + segment.address - load.address
    for index, segment in enumerate(segments):
        struct.pack_into(Segment.FORMAT, new, table + size * index, *vars(segment).values())
    struct.pack_into("<Q", new, 40, 0)  # no section headers
    struct.pack_into("<HHHHH", new, 54, size, len(segments), section_size, 0, 0)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(new)
    beside.chmod(path.stat().st_mode)
    beside.replace(path)


def without(segments: list[Segment], start: int, end: int) -> list[Segment]:
    """`segments` with the addresses from `start` to `end` in memory alone."""
    if start >= end:
        return segments
    answer: list[Segment] = []
    for segment in segments:
        if segment.kind != Segment.LOAD or not segment.address <= start < end <= segment.address + segment.in_file:
            answer.append(segment)
            continue
        before, after = start - segment.address, end - segment.address
        answer += [
            Segment(1, segment.flags, segment.offset, segment.address, segment.physical, before, before, PAGE),
            Segment(1, segment.flags, 0, start, start, 0, end - start, PAGE),
            Segment(
                1,
                segment.flags,
                segment.offset + after,
                end,
                end,
                segment.in_file - after,
                segment.in_memory - after,
                PAGE,
            ),
        ]
    if len(answer) != len(segments) + 2:
        raise UnexpectedTorch(f"no segment holds all addresses from {start:#x} to {end:#x}")
    return answer
