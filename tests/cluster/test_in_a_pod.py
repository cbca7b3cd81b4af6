"""The operator with only what the kubelet gives a pod, on a real API server: its service account's token, from a
token request, which is replaced while it runs.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.charts import NAMESPACE
from builders.operator_process import ACCOUNT, OperatorProcess
from builders.pod import PodFiles, in_a_pod, why_no_pod
from builders.ports import free_port
from cluster.control_plane import ControlPlane

pytestmark = pytest.mark.skipif(why_no_pod() is not None, reason=why_no_pod() or "")


def a_token(control_plane: ControlPlane) -> str:
    return control_plane.kubectl("-n", NAMESPACE, "create", "token", ACCOUNT, "--duration=10m").strip()


def test_the_operator_acts_in_a_pod_and_takes_the_token_of_the_moment(
    control_plane: ControlPlane, operator_account: Path, tmp_path: Path
) -> None:
    files = PodFiles(
        tmp_path / "account", token=a_token(control_plane), authority=control_plane.credentials.ca, namespace=NAMESPACE
    )
    host, _, port = control_plane.url.removeprefix("https://").rpartition(":")
    place = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    operator = OperatorProcess(control_plane, operator_account)  # never started: it asks the port of the one below
    operator.port = free_port()
    words = [sys.executable, "-m", "costopt_operator", "run", f"--listen=127.0.0.1:{operator.port}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(in_a_pod(files, words, **place), stdout=log, stderr=log)
    try:
        end = time.monotonic() + 90
        while not operator.is_acting():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.2)
        files.renew_token(a_token(control_plane))
        time.sleep(15)  # longer than the lease lasts, which is renewed with the new token
        assert operator.is_acting(), (tmp_path / "log").read_text()
        listed = [sys.executable, "-m", "costopt.cli", "status", "-A"]
        asked = subprocess.run(
            in_a_pod(files, listed, **place), capture_output=True, text=True, check=False, timeout=240
        )
        assert (asked.returncode, asked.stderr) == (0, "")
    finally:
        process.terminate()
        assert process.wait(240) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
