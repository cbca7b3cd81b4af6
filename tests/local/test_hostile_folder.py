"""A run folder in which something else has a file's place: it is refused in a sentence, or counts as nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builders.hostile import POISONS, poisoned, within
from builders.local import argv_of, job, runner_in
from builders.plan import report as report_on
from costopt.local.lock import only_runner
from costopt.local.lost_replicas import log_tail
from costopt.local.observe import ReplicaReader
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner
from costopt.refused import Refused
from costopt.schema.replica import TerminationMessage

REPLICA = "replicas/tiny-train-a0-0"
REFUSED = (
    "job.json",
    "status.json",
    "ledger.jsonl",
    "lock",
    *(f"{REPLICA}/{name}" for name in ("replica.json", "supervisor.json", "ended.json", "lock")),
)
"""Written by the shell, and read by it again."""
PASSED_OVER = (f"{REPLICA}/progress.json", f"{REPLICA}/termination.json", "logs/tiny-train-a0-0.log")
"""Written by the job's own processes."""
UNREAD = (f"{REPLICA}/settings.json", f"{REPLICA}/heartbeat", ".costopt-storage")
"""Read by nobody once the replica has ended; the launcher's reading of its settings has its own tests."""
HOLDS_ANYTHING = {"lock", f"{REPLICA}/lock", "logs/tiny-train-a0-0.log"}
"""Files whose content does not matter, or may be any."""
NO_FILES = ("a link to what was there", "a link to a device", "a pipe", "a folder")


def cases(files: tuple[str, ...]) -> pytest.MarkDecorator:
    """Every file with every poison that matters for it."""
    drawn = [(file, poison) for file in files for poison in (NO_FILES if file in HOLDS_ANYTHING else POISONS)]
    return pytest.mark.parametrize(("file", "poison"), drawn)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose job has failed, with everything in it that a replica may write."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    tiny = job(train={"numNodes": 1}, restarts={"maxFailures": 0})
    folder.mkdir()
    with only_runner(folder / "lock"):
        runner_in(folder, tiny, "fail").run()
    (folder / REPLICA / "progress.json").write_text('{"step": 3, "totalSteps": 9}')
    said = TerminationMessage(exit_code=1, reason="ProcessFailed", message="It has failed.")
    (folder / REPLICA / "termination.json").write_text(said.model_dump_json(by_alias=True))
    (folder / "logs/tiny-train-a0-0.log").write_text("the last line\n")
    return folder


def looks(folder: Path) -> Iterator[object]:
    """Everything that the shell reads in a run folder."""
    run_folder = RunFolder(folder)
    with only_runner(run_folder.lock_file):
        yield run_folder.job()
        yield run_folder.status()
        yield run_folder.ledger()
        for snapshot in ReplicaReader(run_folder).snapshots(datetime.now(UTC)):
            yield (snapshot.replica.progress, snapshot.replica.termination)
    yield log_tail(run_folder.log_file("tiny-train-a0-0"))


def test_every_file_of_a_run_folder_is_in_this_test(ended: Path) -> None:
    there = {str(path.relative_to(ended)) for path in ended.rglob("*") if path.is_file()}
    assert there == {*REFUSED, *PASSED_OVER, *UNREAD}


@cases(REFUSED)
def test_what_the_shell_has_written_is_refused_in_one_sentence(
    ended: Path, tmp_path: Path, file: str, poison: str
) -> None:
    folder = poisoned(ended, tmp_path / "run", file, poison)
    if (file, poison) == ("ledger.jsonl", "nothing"):
        assert list(looks(folder)), "a ledger without records is one"
        return
    if (file, poison) == ("status.json", "a name that the terminal would obey"):
        assert list(looks(folder)), "a field that is not known here may be another version's"
        return
    with within(20), pytest.raises(Refused) as refused:
        list(looks(folder))
    said = str(refused.value)
    assert said.startswith(f"{folder / file} is damaged (")
    assert len(said) < 600
    assert said.isprintable()


@cases(PASSED_OVER)
def test_what_a_replica_has_written_counts_as_nothing(ended: Path, tmp_path: Path, file: str, poison: str) -> None:
    with within(20):
        healthy = list(looks(ended))
        found = list(looks(poisoned(ended, tmp_path / "run", file, poison)))
    differing = [number for number, one in enumerate(healthy) if found[number] != one]
    assert differing == ([4] if file.startswith("logs") else [3])


@cases(UNREAD)
def test_what_nobody_reads_any_more_harms_nobody(ended: Path, tmp_path: Path, file: str, poison: str) -> None:
    with within(20):
        assert list(looks(poisoned(ended, tmp_path / "run", file, poison))) == list(looks(ended))


@pytest.mark.parametrize(
    "name", ["replicas", "replicas/tiny-train-a0-0", "artifacts", "artifacts/int8", "artifacts/rejected"]
)
def test_a_link_in_a_folders_place_leads_nowhere(ended: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    report = folder / ("artifacts/rejected/int8" if name.endswith("rejected") else "artifacts/int8") / "report.json"
    poisoned(ended, folder, "artifacts-of-before", "nothing")
    report.parent.mkdir(parents=True)
    report.write_text(report_on("int8").model_dump_json(by_alias=True))
    assert RunFolder(folder).variant_report("int8") is not None
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    run_folder = RunFolder(folder)
    if name == "replicas":
        with pytest.raises(Refused, match="must be a folder, but is a link to another place"):
            run_folder.replica_paths()
        with pytest.raises(Refused, match="must be a folder, but is a link to another place"):
            run_folder.make_folders()
    elif name.startswith("replicas"):
        assert run_folder.replica_paths() == []
    else:
        assert run_folder.variant_report("int8") is None


@pytest.mark.parametrize("poison", NO_FILES)
@pytest.mark.parametrize("file", ["logs/tiny-train-a0-0.log", f"{REPLICA}/lock", "lock"])
def test_nothing_is_started_into_what_is_no_file(tmp_path: Path, file: str, poison: str) -> None:
    folder = tmp_path / "run"
    secret = (folder / file).with_name(f"{Path(file).name}.elsewhere")
    secret.parent.mkdir(parents=True)
    POISONS[poison](folder / file)
    if poison == "a link to what was there":
        secret.write_text("a secret")
    tiny = job(train={"numNodes": 1})
    RunFolder(folder).claim(tiny)
    said = f"{Path(file).name} is damaged .must be a"
    with within(20), pytest.raises(Refused, match=said), only_runner(folder / "lock"):
        Runner(RunFolder(folder), tiny, None, argv=argv_of("finish")).turn()
    if poison == "a link to what was there":
        assert secret.read_text() == "a secret"
