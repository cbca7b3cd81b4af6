"""The README's quickstart, from its command to the last line that it prints."""

import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from builders.docs import ROOT, commands
from builders.docs_output import difference
from builders.docs_shell import Shell
from costopt.render.text import to_yaml

SAMPLE = "manifests/samples/quickstart.yaml"
FEW = {"trials": 1, "fineTuneSteps": 4}
"""Fewer lists than it searches among: what is printed has the same lines."""


def what_make_runs() -> str:
    """The command of the target, without the path of the environment that `make install` has made."""
    # Without what a `make test` hands down, which has its sub-makes print their folders.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    told = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.installed", "quickstart"],
        cwd=ROOT, capture_output=True, text=True, check=True, env=environment,
    ).stdout  # fmt: skip
    return re.sub(r"^\.venv/bin/", "", told.splitlines()[-1])


def test_make_quickstart_runs_the_sample() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    assert what_make_runs() == f"costopt run {SAMPLE}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_prints_what_the_readme_shows_beats_both_byte_models_and_makes_its_variants(
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch", reason="the trainer is not installed")
    job, *books = yaml.safe_load_all((ROOT / SAMPLE).read_text())
    job["spec"]["compress"][-1]["auto"].update(FEW)
    for variant in job["spec"]["compress"]:
        variant["measureSeconds"] = 20
    (tmp_path / SAMPLE).parent.mkdir(parents=True)
    (tmp_path / SAMPLE).write_text(to_yaml([job, *books]))
    shell = Shell(tmp_path / "bin", seconds=1750)
    code, printed = shell(f"costopt run {SAMPLE}", tmp_path)
    assert code == 0, printed
    (shown,) = (each.shown for each in commands("README.md") if each.text == "make quickstart" and each.shown)
    assert difference(shown or "", printed) == ""

    status = json.loads((tmp_path / "runs/quickstart/status.json").read_text())
    results = {name: float(figure) for name, figure in status["progress"]["results"].items()}
    loss = results["validationLossNatsPerByte"]
    assert loss < results["bigramEntropyNatsPerByte"] < results["unigramEntropyNatsPerByte"] < math.log(256)

    int8, pruned, student, best = status["variants"]
    assert [each["name"] for each in status["variants"]] == ["int8", "pruned", "student", "best"]
    assert [each["verdict"] for each in status["variants"]] == ["Accepted"] * 4
    assert all(each["reloaded"] for each in status["variants"])
    assert float(int8["sizeRatio"]) > 3
    assert abs(float(int8["validationLossIncrease"])) < 0.05
    assert float(int8["speedup"]) > 0.5  # 1 and more on a quiet machine; 0.04 under an engine that is wrong for it
    assert student["measured"]["parameters"] < pruned["measured"]["parameters"] < pruned["baseline"]["parameters"]
    assert best["search"]["trials"] == FEW["trials"]
    assert float(best["sizeRatio"]) > 3

    stages = {line["stage"] for line in status["bill"]["lines"]}
    assert stages == {"train", "int8", "pruned", "student", "best"}
    assert status["bill"]["listCost"] is not None
    assert {line["priceSource"] for line in status["bill"]["lines"]} == {"sample figure, not an offer (2026-01-01)"}
