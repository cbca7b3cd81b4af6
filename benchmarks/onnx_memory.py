"""What an ONNX graph of more than 2 GB takes to make: memory, time and files of exporting it and of few bits.

    PYTHONPATH=.:trainer python benchmarks/onnx_memory.py [--gib 2.1] [--model Embedding]
        [--scheme Int4WeightOnly] [--rounding GPTQ] [--embeddings]

Without a scheme the graph is exported, and no more. Models have random weights of so many GiB together:

- "Embedding" is one embedding of nearly all of it, and a head of 64 MiB: only the head has few bits, so the graph stays
  as large as it was, unless embeddings have few bits, too.
- "DecoderLM" has as many layers of width 1024 as that takes: nearly all of it has few bits.

onnxruntime runs each graph on tokens of the whole vocabulary, its last one included, and the outputs are held against
the model's. The program fails if the exported graph's differ by more than rounding, or if weights that do not fit in
one file of 2 GB do not lie beside it. The peak is of the whole process so far (the own count of the system, with files
that are mapped); the first one has the libraries that the program begins with. Files are written to the folder for
temporary files, several times the weights.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from costopt.schema.compression import Quantize
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.onnx_export import PROTOBUF_BYTES, export
from costopt_trainer.compress.onnx_quantize import quantize_graph
from costopt_trainer.models.onnx_model import DATA_FILE, OnnxModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

WIDTH, HEAD = 256, 65536
"""Of "Embedding"; channels, and outputs of its head."""
LAYER_WIDTH, VOCABULARY = 1024, 4096
"""Of "DecoderLM"."""
TOLERANCE = 1e-4
"""By how much the outputs of an exported graph may differ from the model's, as a part of these."""


class Large(nn.Module):
    """Tokens (B, T) -> (B, T, HEAD)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, WIDTH, _weight=torch.empty(rows, WIDTH).uniform_(-1, 1))
        self.head = nn.Linear(WIDTH, HEAD)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


def made(name: str, gib: float) -> tuple[nn.Module, int]:
    """A model with weights of so many GiB, and the size of its vocabulary."""
    weights = int(gib * 2**30 / 4)
    if name == "Embedding":
        rows = weights // WIDTH - HEAD
        return Large(rows), rows
    layers = round((weights - 2 * VOCABULARY * LAYER_WIDTH) / (12 * LAYER_WIDTH**2))
    settings = {"numLayers": layers, "numHeads": 16, "embeddingDim": LAYER_WIDTH, "contextLength": 128}
    shape = ModelShape(
        ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": settings}), vocabulary_size=VOCABULARY
    )
    return build_model(shape), VOCABULARY


def tell(what: str, begun: float, folder: Path | None = None) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())} if folder else ""
    print(f"{what}: peak so far {peak:.2f} GiB, {time.monotonic() - begun:.0f} s {sizes}", flush=True)


def difference(folder: Path, tokens: Tensor, expected: Tensor) -> float:
    """By how much the outputs of the graph in `folder` differ from `expected`, as a part of these."""
    return float((OnnxModel(folder)(tokens) - expected).norm() / expected.norm())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gib", type=float, default=2.1)
    arguments.add_argument("--model", default="Embedding", choices=["Embedding", "DecoderLM"])
    arguments.add_argument("--scheme", help="of a Quantize step; without it the graph is only exported")
    arguments.add_argument("--rounding", default="Nearest")
    arguments.add_argument("--embeddings", action="store_true", help="these have few bits, too")
    asked = arguments.parse_args()
    few_bits = {"scheme": asked.scheme, "rounding": asked.rounding, "embeddings": asked.embeddings}
    settings = Quantize.model_validate(few_bits) if asked.scheme else None
    torch.manual_seed(0)
    begun = time.monotonic()
    model, vocabulary = made(asked.model, asked.gib)
    model.eval().requires_grad_(False)
    size = sum(parameter.nbytes for parameter in model.parameters())
    tokens = torch.randint(0, vocabulary, (2, 16))
    tokens[0, 0] = vocabulary - 1  # its row lies behind all others
    expected = model(tokens)
    tell(f"{asked.model}, {size / 1e9:.2f} GB", begun)
    with tempfile.TemporaryDirectory() as name:
        whole, few = Path(name) / "whole", Path(name) / "few"
        whole.mkdir()
        few.mkdir()
        begun = time.monotonic()
        export(model, tokens, whole)
        del model
        tell("exported", begun, whole)
        off = difference(whole, tokens, expected)
        tell(f"loaded and run, its output differs by {off:.1e}", begun)
        if off > TOLERANCE:
            sys.exit(f"the graph is not the model: its output must differ by at most {TOLERANCE:g}")
        if size > PROTOBUF_BYTES and not (whole / DATA_FILE).exists():
            sys.exit(f"weights of {size:,} bytes must lie in {DATA_FILE}, which is not there")
        if settings is None:
            return
        begun = time.monotonic()
        quantize_graph(whole, few, settings, reduce_range=False, calibration=[tokens.numpy()])
        tell(f"{asked.scheme}, {asked.rounding}", begun, few)
        off = difference(few, tokens, expected)
        tell(f"loaded and run, its output differs by {100 * off:.2f} %", begun)


if __name__ == "__main__":
    main()
