"""A larger text takes no more memory: a process that may not take as much reads it all the same, and one that may takes
at most the same for four times the bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TEXT_MIB, ALLOWED_MIB = 160, 96

BOUND = f"""
import resource, sys
from pathlib import Path
import numpy as np
from costopt.schema.data import DataSettings
from costopt_trainer.data import load_data

folder = Path(sys.argv[1])
settings = DataSettings.model_validate({{"type": "Text", "text": {{"path": str(folder / "text.txt")}}}})
(used,) = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData:")]
resource.setrlimit(resource.RLIMIT_DATA, (used + {ALLOWED_MIB} * 2**20,) * 2)
"""
"""What a process may take for itself; files that it maps, such as the tokens, do not count."""
TOKENIZE_AND_PACK = """
data = load_data(settings, context_length=64, cache_dir=folder / "cache", own_folder=folder)
targets = 0
for number, batch in ((data.num_train_samples, data.train_batch), (data.num_validation_samples, data.validation_batch)):
    for start in range(0, number, 8192):
        targets += batch(np.arange(start, min(start + 8192, number)))[1].numel()
print(targets)
"""
READ_ALL = """
text = (folder / "text.txt").read_bytes()
"""

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux's kernel tells and bounds a process's own memory"
)


def bounded(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BOUND + program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@linux
def test_a_text_larger_than_the_memory_for_it_is_tokenized_and_packed(tmp_path: Path) -> None:
    line = "The cat sat on the mat, and the mat lay on the floor of a small house.\n" * 1000
    with (tmp_path / "text.txt").open("w") as text:
        for _ in range(TEXT_MIB * 2**20 // len(line)):
            text.write(line)
    assert "MemoryError" in bounded(READ_ALL, tmp_path).stderr
    done = bounded(TOKENIZE_AND_PACK, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 0.98 * TEXT_MIB * 2**20


PEAKS = """
import json, random
from costopt.schema.transforms import Transform
from costopt_trainer.data.documents import Document
from costopt_trainer.data.tokenizers.byte_pairs import BytePairTokenizer
from costopt_trainer.data.transforms import blocks
from costopt_trainer.data.transforms.remove_duplicates import RemoveDuplicates

source = random.Random(0)
words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(20_000)]
TEXT = " ".join(source.choices(words, k=200_000)).encode()[:2**20]
AT_ONCE = 2**16
blocks.BLOCK_BYTES = 2**17  # smaller than the documents

def varied(num_bytes, seed):
    # Phrases that hardly come twice.
    source, made = random.Random(seed), 0
    while made < num_bytes:
        text = " ".join(source.choices(words, k=AT_ONCE // 6)).encode()
        made += len(text)
        yield text

def learn(mib):
    assert BytePairTokenizer.train((TEXT for _ in range(mib)), 400).vocabulary_size == 400

def deduplicate(mib):
    transform = RemoveDuplicates(Transform.model_validate({"type": "RemoveDuplicates"}))
    document = Document("", lambda: varied(mib * 2**18, 1))
    assert len(list(transform.documents([document, document]))) == 1

def most(work, mib):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the most counts from now on
    before = told("VmRSS")
    work(mib)
    return told("VmHWM") - before

def told(figure):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(figure + ":"))

for work, warm in ((learn, 1), (deduplicate, 1)):
    most(work, warm)  # code and tables that are loaded once
    print(json.dumps([work.__name__, most(work, 2), most(work, 8)]), flush=True)
"""
"""How much memory two steps take at most, beside what the process has before, in MiB: for a text and for one of four
times as many bytes."""


@pytest.fixture(scope="module")
def peaks() -> dict[str, tuple[float, float]]:
    told = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, timeout=600, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    return {name: (small, large) for name, small, large in map(json.loads, told.stdout.splitlines())}


@linux
@pytest.mark.parametrize("step", ["learn", "deduplicate"])
def test_four_times_the_text_takes_no_more_memory_at_once(peaks: dict[str, tuple[float, float]], step: str) -> None:
    small, large = peaks[step]
    assert large < 64
    assert large - small < 12, (small, large)
