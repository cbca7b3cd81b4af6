"""What an earlier version wrote is read: a running job, its bill and its variants survive an upgrade."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.local import job
from cases.mistakes import plain_job
from costopt.cli.variants import variant_notes
from costopt.cluster.jobs import read_status
from costopt.local.replica_folder import TERMINATION_FILE, ReplicaFolder
from costopt.local.run_folder import RunFolder
from costopt.refused import Refused
from costopt.schema.base import field_key
from costopt.schema.document import read_documents
from costopt.schema.earlier_words import RENAMED, in_todays_words
from costopt.schema.job import CostOptJob
from costopt.schema.lenient_parse import read_known
from costopt.schema.optimization import AdamW, Optimizer
from costopt.schema.parallelism import Parallelism
from costopt.schema.replica import ReplicaSettings
from costopt.schema.status import JobStatus
from costopt_operator.decide.holding import remembered
from costopt_operator.decide.pod_reasons import said_at_end
from costopt_trainer.replica_settings import read_settings

EARLIER = sorted((Path(__file__).parents[1] / "cases" / "earlier").glob("*.json"))
"""Statuses as earlier versions wrote them, with something in each part. A version that changes the status adds one."""


@pytest.fixture(params=EARLIER, ids=lambda path: path.stem)
def written(request: pytest.FixtureRequest) -> bytes:
    content: bytes = request.param.read_bytes()
    return content


def test_there_is_an_earlier_version() -> None:
    assert EARLIER


def test_its_status_is_understood_with_all_that_decides(written: bytes) -> None:
    plain, status = json.loads(written), read_known(JobStatus, written)
    assert [stage.attempt for stage in status.stages] == [stage["attempt"] for stage in plain["stages"]]
    assert status.usage is not None
    assert status.bill is not None
    kept = status.usage.to_plain()
    assert [kept["records"], kept["folded"], kept["held"]] == [
        plain["usage"][part] for part in ("records", "folded", "held")
    ]
    assert status.bill.list_cost == plain["bill"]["listCost"]
    assert [entry.uid for entry in status.batch_jobs or ()] == [entry["uid"] for entry in plain["batchJobs"]]
    assert len(status.variants) == len(plain["variants"])
    variant_notes(status.variants)


def test_the_operator_goes_on_from_what_was_held(written: bytes) -> None:
    usage = read_known(JobStatus, written).usage
    assert usage is not None
    known = remembered(usage)
    assert len(known.held) == 2
    assert known.seen == usage.seen


def test_a_run_folder_goes_on_from_it(written: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "tiny")
    folder.create()
    folder.claim(job())
    (tmp_path / "tiny" / "status.json").write_bytes(written)
    assert folder.status().continues_from_step == json.loads(written)["continuesFromStep"]


FAILED = (Path(__file__).parents[1] / "cases" / "earlier" / "failed.json").read_bytes()
LAST_WORDS = {"exitCode": 1, "reason": "ProcessFailed", "message": "boom", "rank": 5, "node": 1}


def test_the_index_of_a_replica_that_was_called_node_is_kept_and_the_name_of_a_node_is_still_called_so() -> None:
    plain = json.loads(FAILED)
    for status in (read_known(JobStatus, FAILED), read_status(plain, "job tiny")):
        assert status.failure is not None
        assert status.stages[0].failure == status.failure
        assert (status.failure.rank, status.failure.replica_index) == (5, 1)
        assert status.usage is not None
        nodes = [record.node for record in status.usage.records]
        assert nodes == [record["node"] for record in plain["usage"]["records"]]
        assert all(nodes)


def test_the_last_words_of_a_replica_whose_trainer_is_of_an_earlier_version_are_understood(tmp_path: Path) -> None:
    folder = ReplicaFolder(tmp_path)
    (tmp_path / TERMINATION_FILE).write_text(json.dumps(LAST_WORDS))
    for said in (said_at_end(json.dumps(LAST_WORDS)), folder.termination()):
        assert said is not None
        assert (said.message, said.rank, said.replica_index) == ("boom", 5, 1)


EARLIER_RECIPE = {
    "optimizer": {"learningRate": "0.001", "beta1": "0.8", "beta2": "0.99"},
    "parallelism": {"strategy": "ModelParallel", "schedule": "GPipe"},
}


def with_earlier_recipe(plain: Any) -> Any:
    """The document with its recipe in the words of an earlier version."""
    train = plain["spec"]["train"] if "spec" in plain else plain
    train |= {"numNodes": 2, "processesPerNode": 1}
    for name in ("optimizer", "parallelism"):
        train["recipe"][name] = dict(EARLIER_RECIPE[name])
    return plain


TODAY = CostOptJob.model_validate(plain_job())


def test_a_run_folder_of_an_earlier_version_is_the_same_job_in_the_words_of_today(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "tiny")
    folder.create()
    folder.claim(TODAY)
    (tmp_path / "tiny" / "job.json").write_text(json.dumps(with_earlier_recipe(TODAY.to_plain())))
    recipe = folder.job().spec.recipe
    assert recipe is not None
    assert recipe.optimizer.adam_w == AdamW(beta1="0.8", beta2="0.99")
    assert (recipe.parallelism.pipeline, recipe.parallelism.schedule) == (2, "GPipe")
    folder.claim(folder.job())
    with pytest.raises(Refused, match="are not what they were"):
        folder.claim(TODAY)


@pytest.mark.parametrize("strategy", ["DDP", "ModelParallel"])
def test_the_settings_of_a_replica_that_an_earlier_version_wrote_are_read(tmp_path: Path, strategy: str) -> None:
    recipe = TODAY.spec.recipe
    settings = ReplicaSettings(job_name="tiny", stage="train", num_nodes=2, processes_per_node=1, recipe=recipe)
    plain = with_earlier_recipe(settings.to_plain())
    plain["recipe"]["parallelism"] = {"strategy": strategy}
    (tmp_path / "settings.json").write_text(json.dumps(plain))
    read = read_settings(tmp_path / "settings.json").recipe
    assert read is not None
    assert read.optimizer.adam_w == AdamW(beta1="0.8", beta2="0.99")
    assert read.parallelism.pipeline == (2 if strategy == "ModelParallel" else 1)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "spec",
                        "train",
                        "recipe",
                        "optimizer",
                        "parallelism",
                        "strategy",
                        "beta1",
                        "numNodes",
                        "node",
                        "stages",
                        "failure",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_no_document_however_odd_is_too_odd_to_be_put_into_the_words_of_today(document: Any) -> None:
    in_todays_words(document)


def test_a_manifest_in_earlier_words_is_a_mistake_that_names_the_words_of_today() -> None:
    _, mistakes = read_documents(json.dumps(with_earlier_recipe(TODAY.to_plain())), "job.yaml")
    told = {mistake.field.rsplit(".")[-1]: mistake.sentence for mistake in mistakes}
    assert told.keys() == {field for _, field in RENAMED}
    for (_, field), sentence in RENAMED.items():
        assert told[field].endswith(sentence)


def test_every_field_that_is_called_otherwise_now_is_one_of_no_class() -> None:
    classes = {kind.__name__: kind for kind in (Optimizer, Parallelism)}
    for name, field in RENAMED:
        assert field not in {field_key(key, each) for key, each in classes[name].model_fields.items()}
