"""A real cluster of one node: the control plane of `cluster`, and kubelet, containerd, a network, names, our images.

    with RealCluster(binaries, images) as cluster: ...

It must be started inside (see enter.py). `python -m e2e.real_cluster` keeps one until it is interrupted.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from builders.waiting import meanwhile, wait_for
from cluster.build import find_binaries, node_programs
from cluster.components import Settings
from cluster.control_plane import ControlPlane
from cluster.credentials import IDENTITIES, Credentials
from cluster.processes import Process
from cluster.rest import MERGE, Rest
from e2e import node_files
from e2e.enter import INSIDE, NODE_ADDRESS
from e2e.images import TRAINER_IMAGE, find_images
from e2e.node_files import NODE

CLUSTER_ADDRESS = "10.0.0.1"
"""Of the Service `kubernetes`: the first of the API server's range."""
OWN_IDENTITIES = {
    **{name: who for name, who in IDENTITIES.items() if name != "kwok"},
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "node-services": ("node-services", "system:masters"),
}
FAKE_TIME = Path("/usr/lib/x86_64-linux-gnu/faketime")


class RealCluster(ControlPlane):
    """One node on which pods really run. The methods that act on kwok's nodes are not for it."""

    addresses = (NODE_ADDRESS, CLUSTER_ADDRESS)

    def __init__(self, binaries: Mapping[str, Path], images: Mapping[str, Path], settings: Settings | None = None):
        # A cluster's own defaults, but for the address and the request rates.
        super().__init__(binaries, settings or Settings(nodes=1, address=NODE_ADDRESS, job_syncs=5))
        self.images = images
        self.credentials = Credentials(self.folder, OWN_IDENTITIES)
        # In memory, in the namespace's own /run: images are there in seconds, and all of it goes with the namespace.
        self.data = Path("/run") / self.folder.name
        self.volumes = 0

    @property
    def packages(self) -> Path:
        """The folder of the packages that pods get from the node: those of the Python that runs this."""
        return Path(sysconfig.get_paths()["purelib"])

    def _start_once(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        (self.folder / "admission.json").write_text(node_files.admission(), encoding="utf-8")
        super()._start_once()

    def _launch(self, name: str, arguments: list[str]) -> None:
        if name == "kube-apiserver":
            client = self.credentials
            arguments = [
                *arguments,
                f"--client-ca-file={client.ca}",
                "--enable-admission-plugins=NodeRestriction",
                f"--admission-control-config-file={self.folder / 'admission.json'}",
                f"--kubelet-client-certificate={client.kubelet_client_certificate}",
                f"--kubelet-client-key={client.kubelet_client_key}",
                "--allow-privileged=true",
            ]
        super()._launch(name, arguments)

    def _start_nodes(self, kubeconfigs: Mapping[str, Path]) -> None:
        files, data = self.folder, self.data
        (data / "cni").mkdir(exist_ok=True)
        default = subprocess.run(["ctr", "oci", "spec"], capture_output=True, text=True, check=True).stdout
        for path, text in {
            data / "container.json": node_files.container(default, self.packages, FAKE_TIME),
            data / "cni" / "10-bridge.conflist": node_files.network(),
            files / "containerd.toml": node_files.containerd(data),
            files / "resolv.conf": f"nameserver {NODE_ADDRESS}\n",
            files / "kubelet.yaml": node_files.kubelet(files, self.credentials.ca, os.environ[INSIDE]),
            files / "kube-proxy.yaml": node_files.kube_proxy(kubeconfigs["node-services"]),
            files / "Corefile": node_files.corefile(kubeconfigs["node-services"]),
        }.items():
            path.write_text(text, encoding="utf-8")
        self._launch_program(
            "containerd", [shutil.which("containerd") or "containerd", "--config", files / "containerd.toml"]
        )
        self._launch("kube-proxy", [f"--config={files / 'kube-proxy.yaml'}", f"--hostname-override={NODE}"])
        self._launch("coredns", ["-conf", str(files / "Corefile")])
        self.processes["containerd"].wait_until(lambda: self._ctr("version"))
        for archive in self.images.values():
            assert self._ctr("images", "import", str(archive)), self.processes["containerd"].log_tail()
        self._launch(
            "kubelet",
            [
                f"--config={files / 'kubelet.yaml'}",
                f"--kubeconfig={kubeconfigs['kubelet']}",
                f"--root-dir={data / 'kubelet'}",
                f"--cert-dir={data / 'kubelet-pki'}",
                f"--hostname-override={NODE}",
                f"--node-ip={NODE_ADDRESS}",
                "--node-labels=karpenter.sh/capacity-type=on-demand",
            ],
        )
        self.apply(node_files.storage_class())
        self.processes["kubelet"].wait_until(self._nodes_ready)

    def _launch_program(self, name: str, command: list[str | Path]) -> None:
        self.processes[name] = Process(name, command, self.folder / f"{name}.log")
        self.processes[name].start()

    def _ctr(self, *words: str) -> bool:
        done = subprocess.run(["ctr", "--namespace", "k8s.io", *words], capture_output=True, text=True, check=False)
        with (self.folder / "ctr.log").open("a", encoding="utf-8") as log:
            log.write(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}\n")
        return done.returncode == 0

    def add_volume(self, path: Path | None = None, claim: tuple[str, str] | None = None) -> Path:
        """One more volume, for that claim or any; the folder behind it (a new one if none is given)."""
        self.volumes += 1
        name = f"volume-{self.volumes}"
        folder = path or self.data / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        modes = ("ReadWriteOnce", "ReadWriteMany")
        self.apply(node_files.volume(name, folder, capacity="2Gi", access_modes=modes, claim=claim))
        return folder

    @contextlib.contextmanager
    def small_volume(self, claim: tuple[str, str]) -> Iterator["SmallVolume"]:
        """A volume of its own file system for a claim."""
        volume = SmallVolume(self.data / f"small-{self.volumes}")
        self.add_volume(volume.folder, claim)
        try:
            yield volume
        finally:
            volume.allow_writes()

    def name_image(self, name: str, another: str) -> None:
        """Give an image that the node has one more name."""
        prefix = self._image_prefix()
        assert self._ctr("images", "tag", f"{prefix}{name}", f"{prefix}{another}")

    def _image_prefix(self) -> str:
        """What the runtime puts before the name of an image that names no registry."""
        listed = subprocess.run(
            ["ctr", "--namespace", "k8s.io", "images", "list", "--quiet"], capture_output=True, text=True, check=True
        )
        found = next(line for line in listed.stdout.splitlines() if line.endswith(f"/{TRAINER_IMAGE}"))
        return found.removesuffix(TRAINER_IMAGE)

    def stop_kubelet(self, node: str = NODE) -> None:
        """Kill the kubelet. Its containers go on."""
        self.processes["kubelet"].stop(signal.SIGKILL)

    def start_kubelet(self, node: str = NODE) -> None:
        """Start it again; return when the node is ready."""
        self.processes["kubelet"].start()
        self.processes["kubelet"].wait_until(self._nodes_ready)

    @contextlib.contextmanager
    def another_node(self) -> Iterator[None]:
        """A second node that is ready and takes no pods, as an object whose lease is renewed.

        A control plane that has lost all its nodes takes itself for cut off, and gives up no pod.
        """
        rest = Rest(self.kubeconfig)
        self.kubectl("create", "-f", "-", input=node_files.another_node())
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

        def renew() -> None:
            rest.must("PATCH", f"{path}/{node_files.ANOTHER_NODE}", node_files.node_lease(), MERGE)

        try:
            rest.must("POST", path, node_files.node_lease())
            with meanwhile(renew, 5):
                yield
        finally:
            self.kubectl("delete", "node", node_files.ANOTHER_NODE)

    def rotate_service_account_key(self) -> None:
        """Sign service accounts' tokens with another key from now on, and refuse those signed with the old one.

        The kubelet keeps tokens until they are old; started anew, it asks for others.
        """
        self.credentials.create_service_account_key()
        for name in ("kube-apiserver", "kube-controller-manager", "kubelet"):
            self.processes[name].stop(signal.SIGKILL)
        self.start_api_server()
        self.processes["kube-controller-manager"].start()
        self.start_kubelet()


class SmallVolume:
    """A file system in memory that can be full or read-only."""

    MEBIBYTES = 64

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._mount("tmpfs", "-t", "tmpfs", "-o", f"size={self.MEBIBYTES}m")

    def fill(self) -> None:
        """Not a byte is left."""
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def refuse_writes(self) -> None:
        """Every mount of it becomes read-only, as after an error of the disk; once no file is open for writing."""

        def is_done() -> bool:
            with contextlib.suppress(subprocess.CalledProcessError):
                self._mount("none", "-o", "remount,ro")
                return True
            return False

        wait_for(is_done, "read-only")

    def allow_writes(self) -> None:
        """Room again, and writable again."""
        self._mount("none", "-o", f"remount,rw,size={self.MEBIBYTES}m")
        (self.folder / "filler").unlink(missing_ok=True)

    def _mount(self, source: str, *options: str) -> None:
        subprocess.run(["mount", *options, source, self.folder], check=True)


def main() -> None:
    """Start a cluster from what is built, say how to use it, and wait to be interrupted."""
    programs = node_programs()
    binaries, images = find_binaries(programs), find_images()
    if binaries is None or images is None:
        sys.exit("programs or images are not built yet; `make e2e-cluster` builds them")
    began = time.monotonic()
    with RealCluster(binaries, images) as cluster:
        for _ in range(8):
            cluster.add_volume()
        path = f"{binaries['kubectl'].parent}:{Path(sys.executable).parent}"
        # The machine's own number of process 1: /proc of the namespace does not say it.
        enter = "nsenter --mount --net --pid --target $(pgrep --oldest --full 'enter.py --init')"
        sys.stdout.write(
            f"ready after {time.monotonic() - began:.0f} s; in another terminal:\n"
            f"{enter} --wd=$PWD env KUBECONFIG={cluster.kubeconfig} PATH={path}:$PATH bash\n"
            f"# logs are in {cluster.folder}; Ctrl-C ends it\n"
        )
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        main()
