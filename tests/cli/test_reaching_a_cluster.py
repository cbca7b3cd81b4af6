"""Which cluster, which job: and one sentence, without a token in it, whatever goes wrong on the way there."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from builders.fake_api import JOBS, TOKEN, FakeApi, refused, serving, write_kubeconfig
from builders.local import job, runner_in
from builders.on_cluster import Command, Ended, add_job, at_home, command, running

TINY = f"{JOBS}/tiny"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    fake = FakeApi()
    with serving(fake) as url:
        at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", url))
        yield fake


@pytest.fixture
def costopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command(monkeypatch, capsys)


def one_sentence(ended: Ended) -> str:
    """What a refused command has said, checked to be that and no more."""
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert TOKEN not in ended.err
    return ended.err


@pytest.mark.parametrize(
    ("code", "answer", "said"),
    [
        (401, refused(401, "Unauthorized", "Unauthorized"), "does not accept your login, which may have expired"),
        (
            403,
            refused(403, "Forbidden", 'User "ada" cannot get resource "costoptjobs" in the namespace "research"'),
            'does not allow this: User "ada" cannot get resource "costoptjobs"',
        ),
        (404, (404, "404 page not found\n"), "does not know CostOptJob; install the chart: helm install costopt"),
        (500, refused(500, "InternalError", f"a {TOKEN * 2} in it"), "has failed at it (code 500: a ... in it)"),
        (200, (200, "<html>a login page</html>"), "does not answer as an API server does"),
    ],
)
def test_each_refusal_is_one_sentence(
    api: FakeApi, costopt: Command, code: int, answer: tuple[int, object], said: str
) -> None:
    api.instead["GET", TINY] = answer
    for verb in ("status", "cost", "logs", "watch", "suspend", "resume", "delete"):
        assert said in one_sentence(costopt(verb, "tiny")), verb


def test_a_busy_server_is_asked_again(api: FakeApi, costopt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("costopt.cluster.api.BUSY_PAUSES_SECONDS", (0.01, 0.01))
    owner = add_job(api, status=running())
    answers = iter([refused(429, "TooManyRequests", "later")] * 2)
    api.instead["GET", TINY] = lambda: next(answers, (200, owner))
    assert costopt("suspend", "tiny").code == 0


def test_a_name_that_is_not_there_is_answered_with_those_that_are(api: FakeApi, costopt: Command) -> None:
    assert "there is none at all in it" in one_sentence(costopt("status", "tine"))
    for name in ("tiny", "tiny-two", "other"):
        add_job(api, name)
    assert (
        "there is no job tine in namespace research of the cluster of context lab (-n names another); "
        "did you mean tiny" in one_sentence(costopt("status", "tine"))
    )
    assert "; there are other, tiny, tiny-two\n" in one_sentence(costopt("watch", "xylophone"))


def test_a_server_that_is_not_there(tmp_path: Path, costopt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1")
    at_home(monkeypatch, tmp_path, kubeconfig)
    assert "the cluster of context lab cannot be reached at https://127.0.0.1:1 (Connection refused)" in one_sentence(
        costopt("status", "tiny")
    )


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"token": f"{TOKEN}\nof two lines"}, "has characters that no token may have"),
        ({"client-certificate-data": "bm90IGEgY2VydGlmaWNhdGU=", "client-key-data": "%%%"}, "kubeconfig"),
        ({"tokenFile": "/nowhere/token"}, "/nowhere/token"),
        (
            {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere/login"}},
            "the login program of context lab has failed",
        ),
        (
            {
                "exec": {
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "command": "sh",
                    "args": ["-c", "echo session over >&2; exit 3"],
                }
            },
            "the login program of context lab has failed (process returned 3. session over)",
        ),
    ],
)
def test_a_login_that_cannot_be_used(
    api: FakeApi, tmp_path: Path, costopt: Command, user: dict[str, object], said: str
) -> None:
    document = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    server = document["clusters"][0]["cluster"]["server"]
    if "client-key-data" in user:
        server = server.replace("http:", "https:")
    write_kubeconfig(tmp_path / "kubeconfig", server, **user)
    assert said in one_sentence(costopt("status", "tiny"))
    assert api.requests == []


def test_a_login_program_gives_the_token(api: FakeApi, tmp_path: Path, costopt: Command) -> None:
    add_job(api)
    server = yaml.safe_load((tmp_path / "kubeconfig").read_text())["clusters"][0]["cluster"]["server"]
    version = "client.authentication.k8s.io/v1"
    answer = f'{{"apiVersion": "{version}", "kind": "ExecCredential", "status": {{"token": "from-a-program"}}}}'
    program = {"apiVersion": version, "command": "echo", "args": [answer]}
    write_kubeconfig(tmp_path / "kubeconfig", server, exec=program)
    assert costopt("status", "tiny").code == 0
    assert api.requests[0].headers["authorization"] == "Bearer from-a-program"


def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, costopt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    at_home(monkeypatch, tmp_path, None)
    assert "there is no kubeconfig here; name one with --kubeconfig" in one_sentence(costopt("watch", "tiny"))
    assert "no.yaml does not exist" in one_sentence(costopt("status", "tiny", "--kubeconfig", "no.yaml"))
    (tmp_path / "odd.yaml").write_text(f"a: [\n{TOKEN}: }}")
    assert "odd.yaml is not YAML (line 2)" in one_sentence(costopt("status", "tiny", "--kubeconfig", "odd.yaml"))
    (tmp_path / "empty.yaml").touch()
    assert "empty.yaml" in one_sentence(costopt("status", "tiny", "--kubeconfig", "empty.yaml"))
    (tmp_path / "list.yaml").write_text("[1]")
    assert "list.yaml" in one_sentence(costopt("status", "tiny", "--kubeconfig", "list.yaml"))
    lab = str(write_kubeconfig(tmp_path / "lab.yaml", "http://127.0.0.1:1"))
    said = one_sentence(costopt("status", "tiny", "--kubeconfig", lab, "--context", "home"))
    assert "there is no context home in" in said
    assert said.endswith("there is lab\n")


def test_kubeconfigs_are_merged_as_kubectl_merges_them(
    api: FakeApi, tmp_path: Path, costopt: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job(api)
    other = write_kubeconfig(tmp_path / "other", "http://127.0.0.1:1")
    other.write_text(other.read_text().replace("lab", "home"))
    monkeypatch.setenv("KUBECONFIG", f"{other}:{tmp_path / 'missing'}:{tmp_path / 'kubeconfig'}")
    assert "context home cannot be reached" in one_sentence(costopt("status", "tiny"))
    assert costopt("status", "tiny", "--context", "lab").code == 0
    (tmp_path / ".kube").mkdir()
    (tmp_path / "kubeconfig").rename(tmp_path / ".kube/config")
    monkeypatch.delenv("KUBECONFIG")
    assert costopt("status", "tiny").code == 0


def test_a_folder_goes_before_a_job_of_the_same_name_unless_a_cluster_is_named(
    api: FakeApi, tmp_path: Path, costopt: Command
) -> None:
    add_job(api, status=running())
    assert costopt("status", "tiny").out.startswith("tiny: Active\n")
    runner_in(tmp_path / "tiny", job(), "finish").run()
    assert costopt("status", "tiny").out.startswith("tiny: Succeeded")
    assert costopt("status", "./tiny").out.startswith("tiny: Succeeded")
    assert costopt("status", "tiny", "-n", "research").out.startswith("tiny: Active")
    assert costopt("status", "tiny", "--context", "lab").out.startswith("tiny: Active")
    assert "leave it out to ask a cluster" in one_sentence(costopt("status", "--run-dir", "tiny", "-n", "research"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "tiny").rename(tmp_path / "runs/tiny")
    assert costopt("cost").code == 0
    assert costopt("status").out.startswith("tiny: Succeeded")
    assert costopt("status", "tiny").out.startswith("tiny: Active")
    assert "research" in costopt("status", "-n", "research").out


def test_without_a_kubeconfig_a_name_can_only_be_a_folder(
    tmp_path: Path, costopt: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_home(monkeypatch, tmp_path, None)
    said = one_sentence(costopt("status", "tiny"))
    assert "tiny does not exist; name the folder that `costopt run` made, such as runs/<job>, or a kubeconfig" in said
    runner_in(tmp_path / "runs/tiny", job(), "finish").run()
    assert "the run folder of that job is runs/tiny" in one_sentence(costopt("status", "tiny"))


def test_cost_and_logs_are_about_one_job(api: FakeApi, costopt: Command) -> None:
    for verb in ("cost", "logs"):
        assert "name the job; `costopt status` lists those on the cluster" in one_sentence(costopt(verb))


@pytest.mark.parametrize("name", ["submit", "status", "watch", "logs", "cost", "suspend", "resume", "delete"])
def test_no_command_imports_the_kubernetes_client_before_it_asks_a_cluster(name: str) -> None:
    code = (
        f"import sys, costopt.cli.{name}\n"
        "print(sorted({'torch', 'kopf', 'kubernetes', 'numpy', 'urllib3'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
