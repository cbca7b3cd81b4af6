"""Tokenizing takes no more memory for a larger text: a process that may not take as much makes the tokens of it."""

import subprocess
import sys
from pathlib import Path

import pytest

TEXT_MIB, ALLOWED_MIB = 160, 96

BOUND = f"""
import resource, sys
from pathlib import Path
from costopt.schema.data import DataSettings
from costopt_trainer.data import load_data

folder = Path(sys.argv[1])
settings = DataSettings.model_validate({{"type": "Text", "text": {{"path": str(folder / "text.txt")}}}})
(used,) = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData:")]
resource.setrlimit(resource.RLIMIT_DATA, (used + {ALLOWED_MIB} * 2**20,) * 2)
"""
"""What a process may take for itself; files that it maps, such as the tokens, do not count."""
TOKENIZE = """
data = load_data(settings, context_length=64, cache_dir=folder / "cache", own_folder=folder)
print(data.num_train_samples + data.num_validation_samples)
"""
READ_ALL = """
text = (folder / "text.txt").read_bytes()
"""


def bounded(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BOUND + program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="the bound of a process's own memory is of Linux's kernel")
def test_a_text_larger_than_the_memory_for_it_is_tokenized(tmp_path: Path) -> None:
    line = "The cat sat on the mat, and the mat lay on the floor of a small house.\n" * 1000
    with (tmp_path / "text.txt").open("w") as text:
        for _ in range(TEXT_MIB * 2**20 // len(line)):
            text.write(line)
    assert "MemoryError" in bounded(READ_ALL, tmp_path).stderr
    done = bounded(TOKENIZE, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) * 65 > 0.98 * TEXT_MIB * 2**20
