"""Processes of scripts whose imports take many seconds of processor time, for which they are imported but once.

    with zygote(folder, ["torch", "transformers"]) as mother:
        subprocess.Popen(mother.command("script.py"))
        os.kill(mother.newest_child(), signal.SIGKILL)

The process of that command asks the zygote, over a socket, to fork itself; the fork takes the asker's environment,
folder and outputs, and becomes the script. The asker passes SIGTERM on, and ends as it ends: so it is the script to
whoever started it. All of them end with the zygote.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from costopt_trainer.shutdown import die_with_parent

MOST_BYTES = 2**20


START = (sys.executable, "-P", __file__)


@dataclass(frozen=True)
class Zygote:
    """A process that has imported what scripts need."""

    socket: Path

    def command(self, script: str) -> tuple[str, ...]:
        """The command line of `script`."""
        return (*START, "ask", str(self.socket), script)

    def newest_child(self) -> int:
        """Process id of the script that was started last."""
        return int(self.socket.with_suffix(".child").read_text())


@contextlib.contextmanager
def zygote(folder: Path, modules: list[str]) -> Iterator[Zygote]:
    """A zygote that has imported `modules`; its socket is in `folder`, whose path is short."""
    path = folder / "zygote"
    # Libraries read this once: two threads each, on a busy machine, wait for one another most of the time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*START, "serve", str(path), *modules], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"listening\n"
        yield Zygote(path)
    finally:
        process.kill()
        process.communicate()


def serve(path: str, modules: list[str]) -> None:
    """Fork for whoever asks."""
    for module in modules:
        importlib.import_module(module)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("listening", flush=True)
        while True:
            connection, _ = listener.accept()
            mother = os.getpid()
            if os.fork() == 0:
                die_with_parent(mother)
                listener.close()
                _stand_by(connection)
            connection.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)


def _stand_by(connection: socket.socket) -> None:
    """Start the script, and tell the asker its process and its end."""
    content, outputs, _, _ = socket.recv_fds(connection, MOST_BYTES, 2)
    while not content.endswith(b"\n"):
        content += connection.recv(MOST_BYTES)
    mother = os.getpid()
    script = os.fork()
    if script == 0:
        die_with_parent(mother)
        connection.close()
        _become(json.loads(content), outputs)
    connection.sendall(f"{script}\n".encode())
    _, status = os.waitpid(script, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(asked: dict[str, object], outputs: list[int]) -> None:
    for stream, given in zip((1, 2), outputs, strict=True):
        os.dup2(given, stream)
    os.environ.clear()
    os.environ.update(asked["environment"])  # type: ignore[call-overload]
    os.chdir(str(asked["folder"]))
    sys.path[:0] = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.argv = [str(asked["script"])]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - whatever it is, the fork ends here
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    os._exit(code)


def ask(path: str, script: str) -> None:
    """Be, to whoever started this process, the script."""
    asked = {"script": script, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        content = json.dumps(asked).encode() + b"\n"
        sent = socket.send_fds(connection, [content], [1, 2])
        connection.sendall(content[sent:])
        answers = connection.makefile()
        process = int(answers.readline())
        Path(path).with_suffix(".child").write_text(str(process))
        signal.signal(signal.SIGTERM, lambda number, _: os.kill(process, number))
        code = int(answers.readline() or "1")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3:])
    else:
        ask(*sys.argv[2:])
