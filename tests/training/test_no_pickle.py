"""Nothing that comes from another process or from the storage is unpickled: that would run whoever wrote it.

Ranks in `builders.trainer` refuse to unpickle, so every gang of the tests proves it; here is what is left to prove.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from builders.no_pickle import SENTENCE
from builders.trainer import recipe, text_file, train_here
from costopt import names
from costopt.schema.compression import Variant
from costopt_trainer.compress.engines import GRAPH_SECONDS
from costopt_trainer.training import process_group as gang

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that must unpickle nothing."""
    prelude = "from builders.no_pickle import refuse_pickles\nrefuse_pickles()\n"
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(str(ROOT / room) for room in (".", "trainer", "tests")),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", prelude + code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_torchs_own_exchange_of_objects_would_be_noticed() -> None:
    exchange = (
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo', rank=0, world_size=1, store=dist.HashStore())\n"
        "dist.all_gather_object([None], {})\n"
    )
    noticed = python(exchange)
    assert noticed.returncode == 1
    assert SENTENCE in noticed.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [
        {"type": "Prune", "prune": {"percent": 50, "structure": "Structured"}},
        {"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}},
    ],
    ids=["pruned", "int8 and graphs"],
)
def test_a_variant_is_made_and_loaded_again_without_pickles(step: dict[str, object], tmp_path: Path) -> None:
    settings = recipe(text_file(tmp_path))
    assert train_here(settings, tmp_path) == 0
    seconds = GRAPH_SECONDS if step["type"] == "Quantize" else 6
    variant = Variant.model_validate({"name": "small", "steps": [step], "measureSeconds": seconds})
    make = (
        "import sys\n"
        "from pathlib import Path\n"
        "from costopt.schema.compression import Variant\n"
        "from costopt.schema.recipe import Recipe\n"
        "from costopt_trainer.compress.run import make_variant\n"
        "variant, recipe, storage = sys.argv[1:]\n"
        "make_variant(Variant.model_validate_json(variant), Recipe.model_validate_json(recipe), Path(storage))\n"
    )
    made = python(make, json.dumps(variant.to_plain()), json.dumps(settings.to_plain()), str(tmp_path))
    assert made.returncode == 0, made.stderr
    # It lies among the rejected ones, for the model has learnt nothing.
    assert any((tmp_path / folder / names.REPORT_FILE).is_file() for folder in names.variant_folders("small"))


@pytest.mark.parametrize("length", [0, -1, gang.MAX_MESSAGE_BYTES + 1, 2**62])
def test_no_memory_is_taken_for_a_length_that_no_rank_of_ours_would_announce(length: int) -> None:
    with pytest.raises(RuntimeError, match="must tell at most"):
        gang._checked(length)
