"""What kept keys and values save a DecoderLM that writes: a prompt in one pass, then token after token.

    PYTHONPATH=.:trainer python benchmarks/decoding.py [--threads 1] [--rounds 7]

Fresh weights, which cost what trained ones do. Without keys and values each token costs a pass over all before it. Both
ways take turns on the same prompt; the figures are medians, those of a token over all DECODED tokens of all rounds.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from costopt.schema.models import ModelSettings
from costopt_trainer.compress.decoding import Decoder, decoder_of
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

SIZES = {"numLayers": 4, "numHeads": 8, "embeddingDim": 256, "contextLength": 1024}
MODELS: dict[str, dict[str, Any]] = {
    "preset: GPT2": {"preset": "GPT2"},
    "preset: Llama, numKeyValueHeads: 2": {"preset": "Llama", "numKeyValueHeads": 2},
}
PROMPTS = (64, 256, 960)
DECODED = 32


def times_of(decoder: Decoder, prompt: torch.Tensor, tokens: torch.Tensor) -> tuple[float, list[float]]:
    """Seconds of the prompt, and of each token."""
    seconds = []
    begun = time.perf_counter()
    kept = decoder.prefill(prompt)
    seconds.append(time.perf_counter() - begun)
    for token in tokens.split(1, dim=1):
        begun = time.perf_counter()
        kept = decoder.step(token, kept)
        seconds.append(time.perf_counter() - begun)
    return seconds[0], seconds[1:]


@torch.no_grad()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print("| model | prompt, tokens | prompt, ms: kept | not kept | a token, ms: kept | not kept | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, settings in MODELS.items():
        named = ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": {**SIZES, **settings}})
        torch.manual_seed(0)
        model: Any = build_model(ModelShape(named, vocabulary_size=256)).eval().requires_grad_(False)
        ways: list[Decoder] = [decoder_of(model), decoder_of(model.forward)]  # of a mere function nothing is known
        for length in PROMPTS:
            tokens = torch.randint(0, 256, (1, length + DECODED), generator=torch.Generator().manual_seed(1))
            prompt, written = tokens[:, :length], tokens[:, length:]
            first: list[list[float]] = [[] for _ in ways]
            then: list[list[float]] = [[] for _ in ways]
            for number in range(chosen.rounds + 1):
                for place, way in enumerate(ways):
                    one, many = times_of(way, prompt, written)
                    if number:  # the first round warms up
                        first[place].append(one)
                        then[place].extend(many)
            read = [1000 * statistics.median(seconds) for seconds in first]
            each = [1000 * statistics.median(seconds) for seconds in then]
            print(
                f"| {name} | {length} | {read[0]:.1f} | {read[1]:.1f} | {each[0]:.2f} | {each[1]:.2f} | "
                f"{each[1] / each[0]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
