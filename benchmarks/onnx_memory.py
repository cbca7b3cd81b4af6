"""What an ONNX graph of more than 2 GB takes to make: memory, time and files of exporting it and of few bits.

    PYTHONPATH=.:trainer python benchmarks/onnx_memory.py [--gib 2.1] [--scheme Int4WeightOnly] [--rounding GPTQ]

The model is one large embedding, zero but for its first rows, and a layer behind it. The peak is of the whole process
so far (the own count of the system, with files that are mapped). Files are written to the folder for temporary files,
several times the weights.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from costopt.schema.compression import Quantize
from costopt_trainer.compress.onnx_export import export
from costopt_trainer.compress.onnx_quantize import quantize_graph
from costopt_trainer.models.onnx_model import OnnxModel

WIDTH, USED_ROWS = 256, 1000


class Large(nn.Module):
    """Tokens (B, T) -> (B, T, WIDTH)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, WIDTH, _weight=torch.zeros(rows, WIDTH))
        self.layer = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            self.embedding.weight[:USED_ROWS] = torch.randn(USED_ROWS, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(self.embedding(tokens))


def tell(what: str, begun: float, folder: Path | None = None) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())} if folder else ""
    print(f"{what}: peak so far {peak:.2f} GiB, {time.monotonic() - begun:.0f} s {sizes}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gib", type=float, default=2.1)
    arguments.add_argument("--scheme", default="Int4WeightOnly")
    arguments.add_argument("--rounding", default="Nearest")
    asked = arguments.parse_args()
    settings = Quantize.model_validate({"scheme": asked.scheme, "rounding": asked.rounding})
    torch.manual_seed(0)
    model = Large(int(asked.gib * 2**30 / (4 * WIDTH))).eval().requires_grad_(False)
    tokens = torch.randint(0, USED_ROWS, (2, 16))
    expected = model(tokens)
    tell("model", time.monotonic())
    with tempfile.TemporaryDirectory() as name:
        whole, few = Path(name) / "whole", Path(name) / "few"
        whole.mkdir()
        few.mkdir()
        begun = time.monotonic()
        export(model, tokens, whole)
        del model
        tell("exported", begun, whole)
        begun = time.monotonic()
        quantize_graph(whole, few, settings, reduce_range=False, calibration=[tokens.numpy()])
        tell(f"{asked.scheme}, {asked.rounding}", begun, few)
        off = (OnnxModel(few)(tokens) - expected).norm() / expected.norm()
        print(f"its output differs by {100 * float(off):.2f} %")


if __name__ == "__main__":
    main()
