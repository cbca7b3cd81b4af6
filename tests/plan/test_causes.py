"""The table of causes, and what a stage does about them."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.plan import INT8, report, running, spec, trained
from costopt.plan.causes import CAUSES, help_for
from costopt.plan.decide import StartGang
from costopt.plan.evidence import OUT_OF_MEMORY, Evidence, is_disruption, is_own_doing, why_it_ended
from costopt.plan.foreign_text import lines, one_line, safe_progress, safe_report
from costopt.schema.replica import FailureReason, Progress

ONCE_MORE = [reason for reason, cause in CAUSES.items() if cause.retries == 1]


def test_every_reason_has_its_row() -> None:
    assert set(CAUSES) == set(get_args(FailureReason))


def test_what_would_help_against_too_little_memory_names_the_limit_if_there_is_one() -> None:
    assert help_for("OutOfMemory", "16Gi").startswith("raise the memory limit of 16Gi (resourcesPerNode.limits.memory)")
    assert help_for("OutOfMemory", "").startswith("give it more memory")


@pytest.mark.parametrize("reason", ONCE_MORE)
def test_what_would_happen_again_is_tried_once_more_whatever_max_failures_says(reason: FailureReason) -> None:
    world = running(spec(numNodes=1, restarts={"maxFailures": 1000}))
    world.end(world.live()[0], 1, said={"reason": reason, "message": "It broke."})
    assert world.look().start == (StartGang("train", 1),)
    world.look()
    world.end(world.live()[0], 1, said={"reason": reason, "message": "It broke."})
    decided = world.look()
    assert (world.state(), decided.start) == (("Failed", 1), ())
    assert world.stage().failures_by_reason == {reason: 2}
    failure, condition = world.status.failure, world.status.condition("Succeeded")
    assert failure is not None
    assert condition is not None
    assert condition.message == failure.message
    assert failure.message.startswith("It broke; ")
    assert failure.message.endswith(
        f". 2 attempts of train have ended so ({reason}) with the same settings, so it is not tried again unchanged"
    )


def test_data_that_cannot_be_reached_is_tried_again_after_pauses_as_often_as_max_failures_says() -> None:
    world = running(spec(numNodes=1, restarts={"maxFailures": 2, "backoffSeconds": 10}))
    for attempt in (1, 2):
        world.end(world.live()[0], 1, said={"reason": "DataUnreachable", "message": "s3://b must be reachable"})
        assert world.look().start == (), "not at once"
        assert world.state() == ("Starting", attempt)
        world.passes(40)
        world.look()
        world.look()
    world.end(world.live()[0], 1, said={"reason": "DataUnreachable", "message": "s3://b must be reachable"})
    world.look()
    assert world.state() == ("Failed", 2)
    assert world.status.failure is not None
    assert world.status.failure.message == "s3://b must be reachable"


def test_other_ends_in_between_do_not_start_the_count_anew() -> None:
    world = running(spec(numNodes=1, restarts={"maxFailures": 1000}))
    for code, reason in ((1, "OutOfMemory"), (143, None), (1, "ProcessFailed"), (1, "Stalled"), (1, "OutOfMemory")):
        assert world.state()[0] == "Running"
        world.end(world.live()[0], code, said={"reason": reason})
        world.look()
        world.look()
    assert world.state() == ("Failed", 4)
    assert world.stage().failures_by_reason == {"OutOfMemory": 2, "ProcessFailed": 1, "Stalled": 1}


def test_different_memories_that_run_out_are_counted_apart() -> None:
    world = running(spec(numNodes=1))
    for reason in ("OutOfMemory", "DeviceOutOfMemory"):
        world.end(world.live()[0], 1, said={"reason": reason})
        world.look()
        world.look()
    assert world.state() == ("Running", 2)


def test_no_second_attempt_is_made_where_no_failure_is_allowed() -> None:
    world = running(spec(numNodes=1, restarts={"maxFailures": 0}))
    world.end(world.live()[0], 1, said={"reason": "OutOfMemory", "message": "It broke."})
    world.look()
    assert world.state() == ("Failed", 0)
    assert world.status.failure is not None
    assert "attempts of train" not in world.status.failure.message


def test_a_variant_that_runs_out_of_memory_is_counted_by_itself() -> None:
    world = running(spec(INT8, numNodes=1))
    world.end(world.live()[0], 1, said={"reason": "OutOfMemory"})
    world.look()
    world.look()
    world.end_all(0)
    world.look()
    world.look()
    world.end(world.live("int8")[0], 1, said={"reason": "OutOfMemory"})
    world.look()
    assert world.state("int8") == ("Starting", 1)


def test_a_variant_larger_than_its_pod_is_tried_once_more_and_says_what_would_help() -> None:
    world = trained(spec(INT8, restarts={"maxFailures": 1000}))
    killed = Evidence(container_reason="OOMKilled", memory_limit="2Gi")
    for attempt in (0, 1):
        world.look()
        assert world.state("int8") == ("Running", attempt)
        world.end(world.live("int8")[0], 137, evidence=killed)
        decided = world.look()
    assert (world.state("int8"), decided.start) == (("Failed", 1), ())
    assert world.stage("int8").failures_by_reason == {"OutOfMemory": 2}
    failure = world.status.failure
    assert failure is not None
    assert (
        "raise the memory limit of 2Gi (resources.limits.memory of the variant), for model and variant are held at "
        "once, or lower the micro-batch that it is measured with (recipe.batch.microBatchSize, or in evaluation). "
        "2 attempts of int8 have ended so (OutOfMemory)"
    ) in failure.message


def test_running_out_of_memory_beside_a_preemption_counts_as_neither() -> None:
    world = running(spec())
    first, second = world.live()
    world.end(first, 137, evidence=OUT_OF_MEMORY)
    world.end(second, 143, disrupted=True, evidence=Evidence(disruption_reason="PreemptionByScheduler"))
    world.look()
    assert (world.stage().failures_by_reason, world.stage().disruptions) == ({}, 1)


def test_the_pod_that_was_evicted_for_its_own_disk_is_blamed_and_not_those_that_went_with_it() -> None:
    evicted = Evidence(pod_reason="Evicted", pod_message='Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". ')
    assert is_own_doing(evicted)
    assert not is_disruption(evicted)
    world = running(spec())
    first, second = world.live()
    world.end(first, 1, said={"echo": True, "message": "connection closed by peer"})
    world.end(second, 143, evidence=evicted)
    world.look()
    assert world.status.failure is not None
    assert (world.status.failure.reason, world.status.failure.replica_index) == ("StorageLimitExceeded", 1)
    assert (world.stage().failures, world.stage().disruptions) == (1, 0)


@pytest.mark.parametrize(("code", "name"), [(-9, "SIGKILL"), (137, "SIGKILL"), (-11, "SIGSEGV"), (134, "SIGABRT")])
def test_signals_are_told_by_name_on_a_cluster_and_on_one_machine(code: int, name: str) -> None:
    assert name in why_it_ended(Evidence(), "it", code).sentence


def test_exit_codes_above_those_of_signals_are_told_as_they_are() -> None:
    assert why_it_ended(Evidence(), "it", 255).sentence == "it ended with exit code 255"


def test_a_job_whose_training_is_over_keeps_the_count_of_its_failures() -> None:
    world = trained(spec())
    assert world.stage().failures_by_reason == {}


@given(st.text(st.characters(exclude_categories=()), max_size=400), st.integers(2, 300))
def test_the_words_of_others_are_made_safe_and_are_bounded(text: str, limit: int) -> None:
    assert len(one_line(text, limit)) <= limit
    assert one_line(text, limit).isprintable()
    assert all(line.isprintable() for line in lines(text, limit).split("\n"))
    assert len(lines(text, limit)) <= limit
    assert one_line(one_line(text, limit), limit) == one_line(text, limit)


def test_an_escape_sequence_goes_as_a_whole() -> None:
    assert one_line("\x1b[1;31mred\x1b[0m \x1b]0;title\x07text", 80) == "red text"


def test_the_names_of_a_models_own_metrics_are_made_safe() -> None:
    made = report("int8")
    named = {"words\x1b[1m right": "0.5", "\x1b[1m": "1"}
    measured, baseline = (side.model_copy(update={"metrics": named}) for side in (made.measured, made.baseline))
    told = safe_report(made.model_copy(update={"measured": measured, "baseline": baseline}))
    assert told.measured.metrics == told.baseline.metrics == {"words right": "0.5"}


def test_a_variant_that_was_not_made_is_told_with_its_cause() -> None:
    world = trained(spec(INT8, restarts={"maxFailures": 0}))
    world.end(world.live("int8")[0], 137, evidence=OUT_OF_MEMORY)
    world.look()
    condition = world.status.condition("Succeeded")
    assert condition is not None
    assert condition.message.startswith("the model was trained, but not its variants int8. int8: replica 0 of int8 was")
    assert "memory ran out" in condition.message


def test_an_echo_told_first_gives_way_to_a_replica_that_the_kernel_killed_for_its_memory() -> None:
    world = running(spec())
    first, second = world.live()
    world.end(first, 1, said={"echo": True, "message": "connection closed by peer"})
    world.look()
    world.end(second, 137, evidence=OUT_OF_MEMORY)
    world.look()
    assert world.status.failure is not None
    assert (world.status.failure.reason, world.status.failure.replica_index) == ("OutOfMemory", 1)
    assert world.stage().failures_by_reason == {"OutOfMemory": 1}


def test_what_a_log_says_of_bad_samples_is_made_safe() -> None:
    told = Progress(step=1, total_steps=9, bad_samples="1 of 2 are bad: \x1b[31ma\nb\u202e")
    assert safe_progress(told).bad_samples == "1 of 2 are bad: a b"
    plain = told.model_copy(update={"bad_samples": "1 of 2 are bad"})
    assert safe_progress(plain) is plain


def test_what_a_log_says_that_the_data_saved_is_made_safe() -> None:
    told = Progress(step=1, total_steps=9, data_saved="dropped 1 \x1b[31mof\n2")
    assert safe_progress(told).data_saved == "dropped 1 of 2"
