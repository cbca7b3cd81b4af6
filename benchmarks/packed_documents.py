"""Time of a training step where attention stays within documents, against one where it does not.

    PYTHONPATH=.:trainer python benchmarks/packed_documents.py [--rounds 5]

Both have the same weights, tokens and number of targets; they take turns, step by step, so that what else the machine
does falls on both. Documents have 100 tokens on average. The times are medians.
"""

import argparse
import statistics
import time

import torch

from costopt.schema.models import ModelSettings
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

MODEL = {"preset": "Llama", "numLayers": 2, "numHeads": 4, "embeddingDim": 128}
VOCABULARY, TOKENS, DOCUMENT, SEPARATOR = 512, 2048, 100, 0


def seconds(context_length: int, rounds: int) -> dict[str, float]:
    """Of a step of TOKENS tokens in samples of `context_length`: the median, by name."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = {"type": "DecoderLM", "decoderLM": {**MODEL, "contextLength": context_length}}
    settings = ModelSettings.model_validate(plain)
    models = {}
    for name, separator in (("Ignore", None), ("Attention", SEPARATOR)):
        torch.manual_seed(0)
        models[name] = build_model(ModelShape(settings, vocabulary_size=VOCABULARY, separator_id=separator)).to(device)
    tokens = torch.randint(1, VOCABULARY, (TOKENS // context_length, context_length + 1), device=device)
    tokens[torch.rand(tokens.shape, device=device) < 1 / DOCUMENT] = SEPARATOR
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            began = time.perf_counter()
            loss_sum(model(tokens[:, :-1]), tokens[:, 1:]).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
            model.zero_grad(set_to_none=True)
    return {name: statistics.median(own[1:]) for name, own in times.items()}  # the first step takes memory


def main() -> None:
    """Print a row for each context length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'contextLength':>13} {'Ignore':>9} {'Attention':>9} {'ratio':>6}")
    for context_length in (128, 512, 2048):
        found = seconds(context_length, rounds)
        ratio = found["Attention"] / found["Ignore"]
        print(f"{context_length:>13} {found['Ignore']:>7.3f} s {found['Attention']:>7.3f} s {ratio:>6.2f}")


if __name__ == "__main__":
    main()
