"""The files that docs/installing.md tells to write, as the real helm and kubectl read them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from builders.charts import NAMESPACE, program, rendered, the
from builders.docs_walk import lay_out
from costopt_operator.__main__ import app


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "here")


def operator_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    container: dict[str, Any] = the("Deployment", objects)["spec"]["template"]["spec"]["containers"][0]
    return container


def test_the_charts_values_that_are_shown_name_the_images_and_price_book(here: Path) -> None:
    objects = rendered(**yaml.safe_load((here / "values.yaml").read_text()))
    container = operator_of(objects)
    assert container["image"].startswith("images.example/costopt-operator:")
    assert "--default-image=images.example/costopt-trainer:0.1.0" in container["args"]
    hook = next(one for one in objects if one["kind"] == "ConfigMap" and "price-books" in one["metadata"]["name"])
    assert "price list, page 3" in str(hook["data"])


def test_the_kustomization_that_is_shown_names_both_images_and_the_last_option_counts(here: Path) -> None:
    command = [program("kubectl"), "kustomize", str(here)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert told.returncode == 0, told.stderr
    objects = list(yaml.safe_load_all(told.stdout))
    container = operator_of(objects)
    assert container["image"] == "images.example/costopt-operator:0.1.0"
    images = [word for word in container["args"] if word.startswith("--default-image=")]
    assert len(images) == 2
    command = get_command(app).get_command(None, "run")
    parsed = command.make_context("run", images, resilient_parsing=True).params
    assert parsed["default_image"] == "images.example/costopt-trainer:0.1.0"
    assert the("Deployment", objects)["metadata"]["namespace"] == NAMESPACE
