"""Ranks whose memory holds so many samples and no more: a larger micro-batch raises what torch raises then.

    holds        the same in this process
    start_ranks  as builders.trainer has it

As a program, this file is one rank: it does the runs in the given JSON file, with the memory that the environment
gives. Only the rank named there is small, and only from a pass on.
"""

import contextlib
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from builders import trainer
from builders.trainer import Run

SENTENCE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB"


@contextlib.contextmanager
def holds(samples: int, *, after_passes: int = 0) -> Iterator[list[int]]:
    """A DecoderLM with more samples in training runs out of memory half-way; yields the sizes that were tried."""
    import torch

    from costopt_trainer.models.decoder_lm import DecoderLM

    whole = DecoderLM.hidden
    tried: list[int] = []

    def hidden(self: Any, x: Any) -> Any:
        result = whole(self, x)  # dropout has drawn its numbers by then
        tried.append(len(x))
        if len(x) > samples and len(tried) > after_passes:
            raise torch.OutOfMemoryError(SENTENCE)
        return result

    DecoderLM.hidden = hidden  # type: ignore[method-assign]
    try:
        yield tried
    finally:
        DecoderLM.hidden = whole  # type: ignore[method-assign]


def start_ranks(
    runs: list[Run],
    world_size: int,
    folder: Path,
    *,
    small: int,
    samples: int,
    after_passes: int = 0,
) -> list[subprocess.Popen[str]]:
    """As builders.trainer.start_ranks; the rank `small` holds so many samples, from its pass number `after_passes`
    on."""
    file = folder / f"runs-{secrets.token_hex(4)}.json"
    file.write_text(json.dumps([asdict(run) for run in runs]))
    size = {"SMALL_RANK": str(small), "SMALL_SAMPLES": str(samples), "SMALL_AFTER": str(after_passes)}
    return trainer.start_as_ranks(["builders.small_device", str(file)], world_size, **size)


def main() -> None:
    """One rank."""
    if os.environ["RANK"] != os.environ["SMALL_RANK"]:
        trainer.main()
        return
    from builders.no_pickle import refuse_pickles

    refuse_pickles()
    with holds(int(os.environ["SMALL_SAMPLES"]), after_passes=int(os.environ["SMALL_AFTER"])):
        trainer.main()


if __name__ == "__main__":
    main()
