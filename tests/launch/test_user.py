"""A rank in an image without a user, a home or a place for caches gets them; what can be used stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builders.launch import replica
from builders.pod import in_a_pod, why_no_pod
from costopt_trainer.launch.user import CACHES, missing

ASK = """
import getpass, json, os, pathlib, tempfile
from costopt_trainer.launch import user
user.set_defaults(pathlib.Path(tempfile.mkdtemp()) / "home")
getpass.getuser()
home = pathlib.Path.home()
for place in [home, *(pathlib.Path(os.environ[name]) for name in user.CACHES)]:
    (place / "written").write_text("x")
from torch._inductor.runtime.cache_dir_utils import cache_dir
(pathlib.Path(cache_dir()) / "written").write_text("x")
print("fine")
"""


@pytest.mark.skipif(why_no_pod() is not None, reason=why_no_pod() or "")
@pytest.mark.parametrize(
    "environment",
    [{}, {"HOME": "/"}, {"HOME": "/nonexistent"}, {"HOME": "/etc", "TORCHINDUCTOR_CACHE_DIR": "/etc/torch"}],
    ids=["nothing", "what a runtime says", "a home that is not there", "a home that cannot be written"],
)
def test_every_place_that_libraries_ask_for_can_be_written_in_a_pod(environment: dict[str, str]) -> None:
    ask = ASK.replace("[home, *", "[*") if environment.get("HOME") == "/etc" else ASK
    words = in_a_pod(None, [sys.executable, "-c", ask], scratch=True, **environment)
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    assert (ended.returncode, ended.stdout) == (0, "fine\n"), ended.stderr


def test_what_the_user_has_said_and_can_use_stays(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    said = {"HOME": str(tmp_path / "home"), "USER": "ada", "TRITON_CACHE_DIR": str(tmp_path / "not" / "made" / "yet")}
    assert missing({**said, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}, tmp_path / "scratch") == {}


@pytest.mark.parametrize("more", [{}, {"XDG_CACHE_HOME": "{}/caches"}])
def test_compiled_code_is_kept_where_no_other_user_of_the_machine_can_prepare_it(
    tmp_path: Path, more: dict[str, str]
) -> None:
    """inductor's own place is /tmp/torchinductor_<user>, and it runs what it finds there."""
    (tmp_path / "home").mkdir()
    said = {
        "HOME": str(tmp_path / "home"),
        "USER": "ada",
        **{name: text.format(tmp_path) for name, text in more.items()},
    }
    place = "caches/torchinductor" if more else "home/.cache/torchinductor"
    assert missing(said, tmp_path / "scratch") == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / place)}


def test_what_a_launcher_makes_is_its_own_and_gone_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever shares the folder for temporary files has prepared the names that could be guessed."""
    for name in CACHES:  # the compiler of this very process may have set its own
        monkeypatch.delenv(name, raising=False)
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in (f"costopt-home-{os.getuid()}", "torchinductor_ada", "torchinductor_root"):
        (shared / name).symlink_to(tmp_path / "trap")
    show = (
        "import os; from costopt_trainer.launch.user import CACHES; print(*(os.environ[n] for n in ['HOME', *CACHES]))"
    )
    said = {"HOME": "/nonexistent", "USER": "ada", "TMPDIR": str(shared)}
    with replica(tmp_path / "replica", [sys.executable, "-c", show], environment=said) as started:
        assert started.wait() == 0, started.notes
    places = started.output.split()
    assert len(places) == len(CACHES) + 1
    assert {Path(place).relative_to(shared).parts[0] for place in places}.isdisjoint(
        path.name for path in shared.iterdir()
    )
    assert not (tmp_path / "trap").exists()


def test_a_home_that_is_not_there_is_replaced_and_so_are_its_caches(tmp_path: Path) -> None:
    said = {"HOME": str(tmp_path / "away"), "USER": "ada", "HF_HOME": str(tmp_path)}
    found = missing(said, tmp_path / "scratch")
    assert found["HOME"] == str(tmp_path / "scratch")
    assert found.keys() - {"HOME"} == CACHES.keys() - {"HF_HOME"}
    assert all(path.startswith(os.fspath(tmp_path / "scratch")) for path in found.values())
