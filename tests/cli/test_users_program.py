"""The user's program finds what it would find without us, and nothing of ours imports what is the user's."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builders.cli import TRAINING, costopt, environment, program, write_manifest
from builders.launch import replica
from builders.local import INT8, job, wait_until
from costopt import names
from costopt.isolation import FLAGS
from costopt.render.pods import DEFAULT_ENVIRONMENT, pod_template
from costopt.render.text import to_yaml

pytest.importorskip("torch", reason="the trainer is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

SHELL_PROBE = """\
grep -E '^Sig(Ign|Blk):' /proc/self/status
umask
pwd
ls /proc/self/fd | wc -l
echo "$@"
exec {python} probe.py
"""

PROBE = """\
import json, locale, os, sys
try:
    import beside
except ImportError as error:
    beside = error
locale.setlocale(locale.LC_ALL, "")
print(json.dumps({
    "path": sys.path, "beside": str(beside), "flags": str(sys.flags), "locale": locale.getlocale(),
    "priority": os.getpriority(os.PRIO_PROCESS, 0), "environment": dict(os.environ),
}))
"""

ADDED = {
    *names.RESERVED_ENVIRONMENT,
    "OMP_NUM_THREADS",
    "PYTHONUNBUFFERED",
    "CUDA_VISIBLE_DEVICES",
    "GLOO_SOCKET_IFNAME",
    "PATH",
    "_",
    "SHLVL",
    "OLDPWD",
}
"""What a rank is told besides: where it is, what is its own, and which python has torch. The rest is the shell's."""


def write_probe(folder: Path) -> None:
    (folder / "probe.sh").write_text(SHELL_PROBE.format(python=shlex.quote(sys.executable)))
    (folder / "probe.py").write_text(PROBE)
    (folder / "beside.py").touch()
    (folder / "lib").mkdir()
    for name in ("torch", "yaml", "tokenizers", "pydantic"):
        (folder / f"lib/{name}.py").write_text("raise SystemExit(f'{__file__} was imported')")


def seen(text: str) -> dict[str, Any]:
    """What the probe has printed, without what is added for ranks."""
    lines = text.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("SigBlk"))
    found: dict[str, Any] = {"shell": lines[first : first + 6], **json.loads(lines[first + 6])}
    added = (*names.RESERVED_ENVIRONMENT_PREFIXES, "PYTEST")
    found["environment"] = {
        name: value for name, value in found["environment"].items() if name not in ADDED and not name.startswith(added)
    }
    found["flags"] = found["flags"].replace("unbuffered=1", "unbuffered=0")
    return found


PYTHONPATH = environment()["PYTHONPATH"]

SHORT = {**TRAINING, "totalSteps": 4, "evaluation": {"everySteps": 4, "maxSamples": 4}}

WAYS = {
    "as it is": "",
    "with nohup, in the background, in the locale C, with files for the group alone": (
        "trap '' HUP INT QUIT; umask 027; unset LC_ALL LC_CTYPE; export LANG=C; "
    ),
    "in an environment full of Python's variables": (
        "export PYTHONSAFEPATH=1 PYTHONPATH=lib:$PYTHONPATH PYTHONHASHSEED=7 PYTHONNOUSERSITE=1 PYTHONOPTIMIZE=1 "
        "PYTHONWARNINGS=error PYTHONUTF8=1; "
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_under_costopt_run_a_program_finds_what_it_finds_under_a_shell(tmp_path: Path, way: str) -> None:
    write_probe(tmp_path)
    train = {"numNodes": 1, "command": ["sh", "probe.sh", "$HOME", "a  b", "$$"]}
    (tmp_path / "job.yaml").write_text(to_yaml([job(train=train).to_plain()]))
    (tmp_path / "costopt").write_text("import sys; from costopt.cli import main; main()")
    command = shlex.join([sys.executable, str(tmp_path / "costopt"), "run", "job.yaml"])
    commands = {"without": "sh probe.sh '$HOME' 'a  b' '$$' </dev/null | cat", "with us": f"{command} >said 2>&1"}
    found = {}
    for who, line in commands.items():
        answer = subprocess.run(
            ["bash", "-c", WAYS[way] + line],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr + (tmp_path / "said").read_text()
        found[who] = answer.stdout
    found["with us"] = (tmp_path / "runs/tiny/logs/tiny-train-a0-0.log").read_text()
    assert seen(found["with us"]) == seen(found["without"])


def test_in_a_pod_a_program_finds_the_files_beside_it(tmp_path: Path) -> None:
    write_probe(tmp_path)
    template = pod_template(job(), "train", 0, execution=0, config_map="tiny", default_image="trainer")
    (container,) = template["spec"]["containers"]
    assert container["command"] == ["python", *FLAGS, "-m", "costopt_trainer.launch"]
    given = {one["name"]: one["value"] for one in container["env"] if one["name"] in DEFAULT_ENVIRONMENT}
    without = subprocess.run(
        ["sh", "probe.sh"],
        cwd=tmp_path,
        env=environment() | given | {"PYTHONPATH": PYTHONPATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    command = ["sh", "-c", f"cd {shlex.quote(str(tmp_path))}; exec sh probe.sh"]
    with replica(tmp_path / "replica", command, environment=given | {"PYTHONPATH": PYTHONPATH}) as launcher:
        assert launcher.wait() == 0, launcher.notes
        inside, outside = seen(launcher.output), seen(without.stdout)
        assert outside["beside"] == inside["beside"] == f"<module 'beside' from '{tmp_path}/beside.py'>"
        assert {name: value for name, value in inside.items() if name != "environment"} == {
            name: value for name, value in outside.items() if name != "environment"
        }


def test_nothing_of_ours_imports_a_file_of_the_users(tmp_path: Path) -> None:
    """Training, compression, its verification and its compiler's processes, with every module's name in the way."""
    write_manifest(tmp_path, train={"recipe": SHORT}, compress=[INT8])
    (tmp_path / "lib").mkdir()
    installed = {path.name.partition(".")[0] for path in Path(json.__file__).parent.glob("site-packages/*")}
    third = {"numpy", "pydantic", "rich", "safetensors", "tokenizers", "torch", "torchao", "triton", "typer", "yaml"}
    # What Python itself imports before the first line of any program, nobody can keep it from.
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    for name in {*sys.stdlib_module_names, *installed, *third, "sitecustomize", "usercustomize", "costopt"}:
        if name.isidentifier():
            (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')")
            # Whoever puts another costopt on PYTHONPATH runs that one.
            if name not in {*before.stdout.split(), "sitecustomize", "usercustomize", "costopt"}:
                (tmp_path / f"lib/{name}.py").write_text("raise SystemExit(f'{__file__} was imported')")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "costopt").write_text("import sys; from costopt.cli import main; main()")
    answer = subprocess.run(
        [sys.executable, str(bin_folder / "costopt"), "run", "job.yaml"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": os.pathsep.join(filter(None, [environment()["PYTHONPATH"], "lib"]))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "was imported" not in answer.stdout + answer.stderr


@pytest.mark.parametrize("number", ["HUP", "INT"])
def test_a_signal_that_the_shell_ignores_stays_ignored(tmp_path: Path, number: str) -> None:
    """With `nohup costopt run &` the end of the terminal's session is no reason to stop."""
    train = {"numNodes": 1, "command": ["sh", "-c", "touch begun; while [ ! -e go-on ]; do sleep 0.1; done"]}
    (tmp_path / "job.yaml").write_text(to_yaml([job(train=train).to_plain()]))
    command = shlex.join(program("run", "job.yaml"))
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' {number}; exec {command}"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until((tmp_path / "begun").exists)
    os.kill(process.pid, signal.Signals[f"SIG{number}"])
    (tmp_path / "go-on").touch()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


def test_the_variables_of_the_pods_reach_the_program_and_those_of_secrets_are_said_not_to(tmp_path: Path) -> None:
    train = {"numNodes": 1, "command": ["sh", "-c", 'test "$COLOUR" = green && test -z "$TOKEN"']}
    token = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    env = [{"name": "COLOUR", "value": "green"}, token]
    (tmp_path / "job.yaml").write_text(to_yaml([job(train=train, pods={"env": env}).to_plain()]))
    answer = costopt(tmp_path, "run", "job.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "spec.pods.env takes TOKEN from an object of the cluster; here it is not set" in answer.stderr
