"""`python -m e2e.enter COMMAND...` runs a command where a real node can live, and leaves the machine as it was.

The command gets pid, mount and network namespaces of its own; everything it starts ends with it, whatever ends it. What
is not in a namespace is put back: kernel settings that the kubelet changes, and the control groups of its pods.

    enter (outside) ── unshare ──▶ init (pid 1 inside: mounts, network, reaping) ──▶ COMMAND
      └─▶ keeper: puts back what is to be put back when enter is gone, also if it was killed
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

INSIDE = "COSTOPT_E2E_INSIDE"
"""Environment variable of the command: the name of the control group that the node's pods go under."""
NODE_ADDRESS = "10.90.0.2"
"""The node's own address, on a bridge that stands for its network card."""
NODE_FOLDERS = ("/var/log", "/var/lib", "/usr/libexec")
"""Where the programs of a node write besides the folders that they are given."""
KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""Kernel settings of the whole machine that a kubelet sets for itself."""
_PR_SET_PDEATHSIG = 1


def why_not() -> str | None:
    """Why no node can be started on this machine; None if one can."""
    if sys.platform != "linux":
        return "a real node needs Linux"
    if os.geteuid() != 0:
        return "a real node needs root, for its namespaces, mounts and control groups"
    packages = Path(__file__).parent / "packages.sh"
    checked = subprocess.run([packages, "--check"], capture_output=True, text=True, check=False)
    return checked.stderr.strip() or None if checked.returncode != 0 else None


def enter(command: list[str]) -> int:
    """Run the command inside; its exit code."""
    group = f"costopt-e2e-{os.getpid()}"
    before = _read_kernel_settings()
    own = [sys.executable, str(Path(__file__).resolve()), "--init"]
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private", "--"]
    _make_control_groups(group)
    held, keeper = _start_keeper(group, before)
    try:
        child = subprocess.Popen(
            [*unshare, *own, *command],
            env={**os.environ, INSIDE: group},
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - it takes no lock
        )
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _frame: _send_to_init(child.pid, number))
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # the terminal sends it to the command too
                return _as_shells_say(child.wait())
    finally:
        os.close(held)
        os.waitpid(keeper, 0)


def _start_keeper(group: str, before: dict[str, str]) -> tuple[int, int]:
    """The process that puts everything back as soon as the returned descriptor is closed, and its id."""
    watched, held = os.pipe()
    keeper = os.fork()
    if keeper:
        os.close(watched)
        return held, keeper
    try:
        os.setsid()  # out of the reach of a terminal's signals
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.close(held)
        os.read(watched, 1)
        _remove_control_groups(group)
        _write_kernel_settings(before)
    finally:
        os._exit(0)


def _send_to_init(unshare: int, number: int) -> None:
    """Signal process 1 of the namespaces, since unshare itself blocks SIGTERM."""
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split():
            os.kill(int(pid), number)


def _as_shells_say(code: int) -> int:
    return code if code >= 0 else 128 - code


def _init(command: list[str]) -> int:
    """What process 1 of the namespaces does."""
    _run("mount", "--make-rshared", "/")
    _run("mount", "-t", "proc", "proc", "/proc")
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for folder in ("/run/lock", "/run/netns"):
        Path(folder).mkdir()
    for folder in NODE_FOLDERS:  # what a node writes there is its own, and goes with it
        layers = Path("/run/layers") / folder.replace("/", "-")
        for name in ("upper", "work"):
            (layers / name).mkdir(parents=True)
        options = f"lowerdir={folder},upperdir={layers / 'upper'},workdir={layers / 'work'}"
        _run("mount", "-t", "overlay", "overlay", "-o", options, folder)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "node0", "type", "bridge")
    _run("ip", "addr", "add", f"{NODE_ADDRESS}/24", "dev", "node0")
    _run("ip", "link", "set", "node0", "up")
    # kube-proxy and the API server look for the address on the way out; there is no such way.
    _run("ip", "route", "add", "default", "via", "10.90.0.1", "dev", "node0")
    _run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")
    child = subprocess.Popen(command, preexec_fn=_end_with_parent)  # noqa: PLW1509 - it takes no lock
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _frame: os.kill(child.pid, number))
    while True:  # orphans of the whole node end up here
        pid, status = os.wait()
        if pid == child.pid:
            return _as_shells_say(os.waitstatus_to_exitcode(status))


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def control_group_roots() -> list[Path]:
    """Where control groups are made: one folder for each controller, or a single one on cgroup v2."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())


def _make_control_groups(group: str) -> None:
    for root in control_group_roots():
        with contextlib.suppress(OSError):
            (root / group).mkdir()
        if root.name == "cpuset":  # a new group has no CPUs before somebody gives it some
            for file in ("cpuset.cpus", "cpuset.mems"):
                (root / group / file).write_text((root / file).read_text())
        controllers = root / "cgroup.controllers"
        if controllers.exists():
            wanted = " ".join(f"+{name}" for name in controllers.read_text().split())
            for folder in (root, root / group):
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(wanted)


def _remove_control_groups(group: str) -> None:
    for root in control_group_roots():
        for folder, _, _ in os.walk(root / group, topdown=False):
            for _ in range(50):  # the last processes of a group are still on their way out
                try:
                    Path(folder).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    signal.sigtimedwait([], 0.1)


def _read_kernel_settings() -> dict[str, str]:
    paths = {name: Path("/proc/sys") / name for name in KERNEL_SETTINGS}
    return {name: path.read_text() for name, path in paths.items() if path.exists()}


def _write_kernel_settings(values: dict[str, str]) -> None:
    for name, value in values.items():
        path = Path("/proc/sys") / name
        if path.read_text() != value:
            path.write_text(value)


def main() -> int:
    """Enter, or (called by itself) be process 1."""
    words = sys.argv[1:]
    if words[:1] == ["--init"]:
        return _init(words[1:])
    if not words:
        sys.stderr.write("say which command is to be run inside\n")
        return 2
    reason = why_not()
    if reason is not None:
        sys.stderr.write(f"{reason}\n")
        return 2
    if shutil.which(words[0]) is None:
        sys.stderr.write(f"there is no program {words[0]}\n")
        return 2
    return enter(words)


if __name__ == "__main__":
    sys.exit(main())
