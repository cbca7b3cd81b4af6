"""The Dockerfiles install what the tests install, as an unprivileged user, from what .dockerignore lets through."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from builders.charts import ROOT
from images import dependencies

IMAGES = {"operator": ROOT / "images/operator.Dockerfile", "trainer": ROOT / "images/trainer.Dockerfile"}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

Instruction = tuple[str, str]


def instructions(image: str) -> list[Instruction]:
    """Each instruction of a Dockerfile and its arguments, continued lines joined."""
    lines = [line for line in IMAGES[image].read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def arguments_of(image: str, word: str) -> list[str]:
    return [rest for found, rest in instructions(image) if found == word]


def test_the_operators_image_installs_the_extra_of_its_name() -> None:
    extras = re.findall(r"'?\.\[([a-z,]+)\]'?", " ".join(arguments_of("operator", "RUN")))
    assert extras == ["operator"]
    assert "operator" in PROJECT["project"]["optional-dependencies"]


def test_the_trainers_image_installs_what_its_extra_lists_before_it_sees_our_sources() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    own = PROJECT["project"]["dependencies"]
    wanted = [*own, *(one for name in ("trainer", "hf", "onnx", "data") for one in extras[name])]
    assert dependencies.requirements() == wanted
    stage = instructions("trainer")
    (begin,) = (index for index, one in enumerate(stage) if one[1].endswith(" AS dependencies"))
    (end,) = (index for index, one in enumerate(stage) if "images.dependencies" in one[1])
    copied = [rest for word, rest in stage[begin:end] if word == "COPY"]
    assert copied == ["pyproject.toml ./", "images/dependencies.py images/cpu_torch.py images/"]


def test_the_operators_extra_has_no_torch_and_the_trainers_has_it_with_cuda() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert not [one for one in extras["operator"] + PROJECT["project"]["dependencies"] if "torch" in one]
    # The wheel for Linux in the registry that pip is set up for carries CUDA; one with a +cpu mark would not.
    assert [one for one in extras["trainer"] if re.fullmatch(r"torch==[0-9.]+", one)]


@pytest.mark.parametrize("image", IMAGES)
def test_every_base_image_has_a_fixed_tag_with_a_python_that_the_project_supports(image: str) -> None:
    at_least = re.fullmatch(r">=3\.(\d+)", PROJECT["project"]["requires-python"])
    assert at_least is not None
    stages: set[str] = set()
    for base in arguments_of(image, "FROM"):
        reference, _, stage = base.partition(" AS ")
        if reference not in stages:
            version = re.fullmatch(r"python:3\.(\d+)-slim-[a-z]+", reference)
            assert version is not None, reference
            assert int(version[1]) >= int(at_least[1])
        stages.add(stage)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_the_unprivileged_user_of_the_pods(image: str) -> None:
    from costopt.render.pods import USER_ID

    assert arguments_of(image, "USER") == [f"{USER_ID}:{USER_ID}"]
    words = [word for word, _ in instructions(image)]
    assert "RUN" not in words[words.index("USER") :]


def test_the_operators_entrypoint_is_its_console_script_and_the_charts_command() -> None:
    (entrypoint,) = arguments_of("operator", "ENTRYPOINT")
    assert json.loads(entrypoint) == ["costopt-operator"]
    if "costopt-operator" not in PROJECT["project"]["scripts"]:
        pytest.skip("needs the operator's command line")
    module, _, function = PROJECT["project"]["scripts"]["costopt-operator"].partition(":")
    assert find_spec(module) is not None
    code = f"import sys, {module}; assert callable({module}.{function}); print('torch' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "False"


def test_the_trainers_entrypoint_is_the_launcher() -> None:
    from costopt.isolation import FLAGS
    from costopt.render.settings import LAUNCHER_MODULE

    (entrypoint,) = arguments_of("trainer", "ENTRYPOINT")
    assert json.loads(entrypoint) == ["python", *FLAGS, "-m", LAUNCHER_MODULE]
    assert find_spec(LAUNCHER_MODULE) is not None


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps `path` out: the last line that matches it decides."""
    answer = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch.fnmatch(path, pattern):
            answer = not line.startswith("!")
    return answer


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_exists_reaches_the_build_and_is_all_that_the_package_needs(image: str) -> None:
    copied = [shlex.split(one)[:-1] for one in arguments_of(image, "COPY") if not one.startswith("--from")]
    sources = {source for one in copied for source in one}
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert Path(package).parts[0] in sources
    assert PROJECT["project"]["readme"] in sources


def test_nothing_else_reaches_the_build() -> None:
    assert all(ignored(name) for name in (".git", ".venv", ".cache", "runs", "tests", "charts", "benchmarks"))


def test_no_image_hands_out_gpus_that_were_not_asked_for() -> None:
    assert "NVIDIA_VISIBLE_DEVICES=" not in IMAGES["trainer"].read_text().replace("# Without", "")
