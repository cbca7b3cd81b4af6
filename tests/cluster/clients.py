"""A cluster as a test sees it: kubectl, helm and kubeconfig files, for any cluster."""

import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import builders.waiting

ROOT = Path(__file__).resolve().parent.parent.parent


class CommandFailedError(Exception):
    """A command's exit code was not 0; the message is what it wrote to its error output."""

    def __init__(self, command: str, code: int, errors: str) -> None:
        super().__init__(f"{command} exited {code}: {errors}")
        self.code = code
        self.errors = errors


class Cluster:
    """A cluster with full rights, through real clients. `folder` takes the clients' caches."""

    def __init__(self, binaries: Mapping[str, Path], kubeconfig: Path, folder: Path) -> None:
        self.binaries = binaries
        self.kubeconfig = kubeconfig
        self.folder = folder

    @property
    def environment(self) -> dict[str, str]:
        """Environment for programs that read KUBECONFIG; clients' caches are below `folder`."""
        cache = self.folder / "client-cache"
        own = {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(cache / "kube"),
            "HELM_CACHE_HOME": str(cache / "helm"),
            "HELM_CONFIG_HOME": str(cache / "helm-config"),
            "HELM_DATA_HOME": str(cache / "helm-data"),
            "PATH": os.pathsep.join([str(self.binaries["kubectl"].parent), os.environ.get("PATH", "")]),
        }
        return {key: value for key, value in os.environ.items() if not key.startswith(("KUBE", "HELM"))} | own

    def kubectl(
        self, *arguments: str | Path, input: object = None, namespace: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        """What kubectl printed. `input` goes to its standard input: text, or an object written as JSON."""
        words = ["--namespace", namespace] if namespace else []
        return self._run("kubectl", [*words, *map(str, arguments)], input, kubeconfig)

    def helm(
        self, *arguments: str | Path, input: object = None, namespace: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        """What helm printed."""
        words = ["--namespace", namespace] if namespace else []
        return self._run("helm", [*words, *map(str, arguments)], input, kubeconfig)

    def _run(self, program: str, words: list[str], given: object, kubeconfig: Path | None) -> str:
        text = given if isinstance(given, str) or given is None else json.dumps(given)
        environment = self.environment | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
        command = [str(self.binaries[program]), *words]
        done = subprocess.run(
            command,
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=240,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailedError(" ".join([program, *words]), done.returncode, done.stderr.strip())
        return done.stdout

    def get(self, *arguments: str, namespace: str | None = None) -> dict[str, Any]:
        """`kubectl get ... -o json`: one object, or a list's `items`."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json", namespace=namespace))
        return found

    def apply(self, *objects: Mapping[str, Any], namespace: str | None = None) -> None:
        """Server-side apply of objects, in order."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=document, namespace=namespace)

    def make_namespace(self) -> str:
        """Create a namespace and wait for the service account that its pods run as."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.kubectl("create", "namespace", name)
        self.wait_for(lambda: "default" in self.kubectl("get", "serviceaccounts", "-o", "name", namespace=name))
        return name

    def install_crds(self) -> None:
        """Apply manifests/crds and wait until the API server serves them."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", ROOT / "manifests" / "crds")
        self.wait_until_served("costoptjobs.costopt.dev", "pricebooks.costopt.dev")

    def wait_until_served(self, *definitions: str) -> None:
        """Wait for resource definitions. (`kubectl wait` fails on one that is so new that it has no conditions.)"""

        def served(name: str) -> bool:
            conditions = self.get("crd", name).get("status", {}).get("conditions") or []
            return {"Established": "True"}.items() <= {item["type"]: item["status"] for item in conditions}.items()

        self.wait_for(lambda: all(served(name) for name in definitions), what="Established")

    def wait_for(self, read: Callable[[], Any], seconds: float = 240, what: str = "") -> Any:
        """The first answer of `read` that is true; AssertionError with the last one after `seconds`."""
        return builders.waiting.wait_for(read, what or "true", seconds)

    def metrics(self) -> str:
        """The API server's metrics, as text."""
        return self.kubectl("get", "--raw", "/metrics")

    def request_counts(self) -> dict[tuple[str, str, str], int]:
        """Requests the API server answered since its start, from its metrics, by (verb, resource, subresource)."""
        counts: dict[tuple[str, str, str], int] = {}
        for labels, value in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", self.metrics(), re.MULTILINE):
            label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            key = (label["verb"], label["resource"], label["subresource"])
            counts[key] = counts.get(key, 0) + int(float(value))
        return counts

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig file with a fresh token (a day) of a service account, and so with exactly its rights."""
        token = self.kubectl("create", "token", name, "--duration=24h", namespace=namespace).strip()
        document = json.loads(self.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
        document["users"][0]["user"] = {"token": token}
        document["contexts"][0]["context"]["namespace"] = namespace
        path = self.folder / f"{namespace}-{name}.kubeconfig"
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        path.chmod(0o600)
        return path
