"""Making a graph takes seconds for each of two models, so only tests that ask for `with_graphs` have variants tried as
one that nobody has asked for."""

import pytest

from costopt_trainer.compress import engines
from costopt_trainer.models.onnx_model import lacking


@pytest.fixture
def with_graphs() -> None:
    """As it is everywhere else."""
    if why := lacking():
        pytest.skip(why)


@pytest.fixture(autouse=True)
def _without_graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "with_graphs" not in request.fixturenames:
        monkeypatch.setattr(engines, "lacking", lambda: "the tests of engines try that")
