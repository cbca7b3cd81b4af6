"""A package that somebody else has made and installed, with compression steps of its own."""

import sys
from pathlib import Path

import pytest

MODULE = "somebodys_steps"
STEPS = """
import torch


def scale(model, settings, run):
    with torch.no_grad():
        weights = [each for each in model.parameters() if each.dim() == 2]
        if type(model).__name__ == "LSTM":
            from costopt_trainer.errors import NotRetryable
            raise NotRetryable("InvalidSettings", "needs a model that does not recur")
        for number, weight in enumerate(weights):
            weight.mul_(float(settings["by"]))
            run.pieces.done(number + 1, len(weights))
    return f"scaled by {settings['by']}"


def fails(model, settings, run):
    raise ValueError("no such thing\\nin two lines")


def leaves(model, settings, run):
    raise SystemExit(0)


NOTHING = 7
"""
ENTRY_POINTS = f"""[costopt.compression_steps]
scale = {MODULE}:scale
fails = {MODULE}:fails
leaves = {MODULE}:leaves
nothing = {MODULE}:NOTHING
broken = {MODULE}_that_is_not_there:scale
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip would, for the time of a test."""
    (folder / f"{MODULE}.py").write_text(STEPS)
    described = folder / f"{MODULE}-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
