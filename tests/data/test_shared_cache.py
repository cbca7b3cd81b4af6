"""Two jobs with one cache: while one uses its tokens the other removes none of them, and may once it has ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builders.data import text_settings
from costopt import caches
from costopt.schema.data_cache import CacheLimits
from costopt_trainer.data import load_data

USER = """
import sys
from pathlib import Path
from costopt.schema.data import DataSettings
from costopt_trainer.data import load_data
data = load_data(DataSettings.model_validate_json(sys.argv[1]), context_length=8, cache_dir=Path(sys.argv[2]))
print("has its tokens", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_process_that_is_killed_holds_its_tokens_to_its_end(tmp_path: Path) -> None:
    for sign in "ab":
        (tmp_path / f"{sign}.txt").write_text(sign * 2000)
    cache = tmp_path / "cache"
    asked = text_settings(tmp_path / "a.txt").model_dump_json(by_alias=True, exclude_none=True)
    user = subprocess.Popen(
        [sys.executable, "-c", USER, asked, str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert user.stdout is not None
    assert next(line for line in user.stdout if "has its tokens" in line)
    (used,) = caches.caches_in(cache)
    other = text_settings(tmp_path / "b.txt").model_copy(update={"cache": CacheLimits(max_bytes=0)})
    load_data(other, context_length=8, cache_dir=cache)
    assert (used.folder / used.name / "train.bin").exists()
    user.kill()
    user.communicate()
    load_data(other, context_length=8, cache_dir=cache)
    assert not (used.folder / used.name).exists()
