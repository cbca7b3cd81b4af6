"""Whatever is printed is fit for any terminal: nothing that it would obey, nothing that its encoding lacks."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from builders.cli import environment, program
from builders.fake_api import JOBS, PODS, FakeApi, refused, serving, write_kubeconfig
from builders.on_cluster import add_job, add_pod, condition, failed
from costopt.cli import COMMANDS
from costopt.cli.outlet import Outlet, safe
from costopt.cli.views import console

ATTACK = "\x1b]0;pwned\x07\x1b[2J\x1b[31mred\x9b1m\u202e\r\ud800 café ✓ 😀"
UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]")


@given(st.text(st.characters()), st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252", "iso2022_jp", "nonsense"]))
def test_safe_text_can_be_encoded_and_holds_nothing_to_obey(text: str, encoding: str) -> None:
    found = safe(text, encoding)
    assert not UNSAFE.search(found)
    found.encode("ascii" if encoding == "nonsense" else encoding)
    assert safe(found, encoding) == found


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert safe(text) == text


def test_colours_are_left_out_and_all_else_is_written_out() -> None:
    assert safe("\x1b[1;31mred\x1b[0m\tb\n\x1b[2J") == "red\tb\n\\x1b[2J"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_console_keeps_its_own_escape_sequences_and_no_others(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    raw = io.BytesIO()
    stream = Terminal(raw, encoding=encoding)
    out = console(Outlet(stream))  # type: ignore[arg-type] -- a text stream, if not by name
    out.print(Text(ATTACK, style="bold"))
    stream.flush()
    said = raw.getvalue()
    assert b"\x1b[1m" in said
    assert b"\x1b]" not in said
    assert b"\x1b[2J" not in said


def on_terminal(folder: Path, arguments: tuple[str, ...], encoding: str, **more: str) -> tuple[int, bytes]:
    """Run a command on a terminal of its own; its exit code, and every byte the terminal got."""
    here, there = pty.openpty()
    variables = {**environment(), "PYTHONIOENCODING": encoding, "TERM": "xterm", "COLUMNS": "100", **more}
    process = subprocess.Popen(
        program(*arguments), cwd=folder, env=variables, stdin=there, stdout=there, stderr=there, start_new_session=True
    )
    os.close(there)
    got = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        got += part
    os.close(here)
    return process.wait(240), got


def commands_with_foreign_text() -> dict[str, tuple[str, ...]]:
    """A call of every command whose answer quotes what others have written."""
    calls = {name: (name, "tiny") for name in COMMANDS}
    calls |= {"submit": ("submit", "evil.yaml"), "validate": ("validate", "evil.yaml"), "plan": ("plan", "evil.yaml")}
    calls |= {"run": ("run", "evil.yaml"), "crd": ("crd", ATTACK.replace("\ud800", ""))}
    return calls


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_hands_foreign_text_to_a_terminal_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "evil.yaml").write_text(
        'apiVersion: costopt.dev/v1alpha1\nkind: CostOptJob\nmetadata: {name: tiny}\nspec: {"\\e]0;pwned\\a✓": 1}\n'
    )
    api = FakeApi()
    attack = ATTACK.replace("\ud800", "")
    message = {"conditions": [condition("Succeeded", "False", "InvalidData", attack)]}
    owner = add_job(api, status={**failed(message=attack, logTail=[attack]), **message})
    add_pod(api, owner, "train", 0, 0, phase="Failed")
    api.instead["GET", f"{PODS}/tiny-train-a0-0-xyz/log"] = (200, f"{attack}\n")
    api.instead["DELETE", f"{JOBS}/tiny"] = refused(403, "Forbidden", attack)
    with serving(api) as url:
        home = write_kubeconfig(tmp_path / "kubeconfig", url)
        for encoding in ("utf-8", "ascii"):
            arguments = commands_with_foreign_text()[name]
            _, said = on_terminal(tmp_path, arguments, encoding, KUBECONFIG=str(home), HOME=str(tmp_path))
            assert said, name
            assert b"Traceback" not in said, said
            for sequence in (b"\x1b]0;", b"\x1b[2J", b"\x07", b"\x9b1m", "\u202e".encode()):
                assert sequence not in said, (encoding, said)
            if name in ("status", "logs", "watch", "validate", "submit", "run", "plan", "delete"):
                assert b"pwned" in said, said  # it was quoted at all


def test_standard_output_is_the_same_again_when_a_command_has_ended() -> None:
    code = "import sys; a = sys.stdout, sys.stderr\nfrom costopt.cli import main\nsys.argv = ['costopt', 'crd']\n"
    code += "try: main()\nexcept SystemExit: pass\nassert (sys.stdout, sys.stderr) == a"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment())


@pytest.mark.parametrize("command", ["crd", "--help"])
def test_a_full_disk_behind_the_output_is_one_sentence(command: str, tmp_path: Path) -> None:
    words = [*program(), command]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment(), check=False
        )
    assert (ran.returncode, ran.stderr) == (1, "costopt: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_traceback(closed: str, tmp_path: Path) -> None:
    words = ["sh", "-c", f'"$@" {closed}', "sh", *program(), "crd"]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
