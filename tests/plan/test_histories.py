"""Any history: a job in a world where anything may happen, in any order, and a shell that may die at any line.

What must hold of every single plan is checked by `builders.plan.checked_plan`. Here it is driven through random
histories; at the end of each, the world turns kind (replicas obey, work ends well, nobody edits anything any more), and
the job must come to rest: at its end, or suspended for a reason that still stands.
"""

from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from builders.plan import INT8, PRUNED, World, bill, replica, spec
from costopt.plan.decide import is_final, is_suspended

EXIT_CODES: list[int | None] = [0, 1, 1, 137, -9, -15, 143, 143, None, 78]
STEPS_UNTIL_REST = 60
GHOST = 9
"""Index of a replica that no plan started."""

OUTCOMES: dict[str, set[str]] = {
    "Success": {"Succeeded"},
    "Failure": {"Failed", "Stalled", "Succeeded"},
    "Disruption": {"Disrupted", "Succeeded"},
    "Suspension": {"Suspended", "Succeeded"},
    "Stop": {"Stopped", "Succeeded"},
}
"""What records may say of an attempt; that a replica ended well is true whatever became of its gang."""

pick = st.integers(0, 2**16)


class History(RuleBasedStateMachine):
    """One job's history."""

    world: World

    @initialize(
        variants=st.sampled_from([(), (INT8,), (INT8, PRUNED)]),
        nodes=st.integers(1, 2),
        limits=st.fixed_dictionaries(
            {
                "maxFailures": st.integers(0, 3),
                "maxDisruptions": st.integers(0, 4),
                "stallTimeoutSeconds": st.sampled_from([30, 600]),
            },
            optional={
                "startTimeoutSeconds": st.sampled_from([20, 500]),
                "backoffSeconds": st.sampled_from([0, 2, 100]),
                "maxBackoffSeconds": st.sampled_from([0, 3, 300]),
            },
        ),
        deadline=st.sampled_from([None, 200, 5000]),
        budget=st.sampled_from([None, "CheckpointAndSuspend", "Fail"]),
        time_to_live=st.sampled_from([None, 0, 100]),
        most_variants=st.sampled_from([None, 1]),
        suspended=st.booleans(),
    )
    def begin(
        self,
        *,
        variants: tuple[Any, ...],
        nodes: int,
        limits: dict[str, int],
        deadline: int | None,
        budget: str | None,
        time_to_live: int | None,
        most_variants: int | None,
        suspended: bool,
    ) -> None:
        fields: dict[str, Any] = {"numNodes": nodes, "restarts": limits, "suspend": suspended}
        if budget:
            fields |= {"budget": {"amount": "10", "onExceeded": budget}, "priceBookName": "default"}
        if deadline:
            fields["activeDeadlineSeconds"] = deadline
        if time_to_live is not None:
            fields["ttlSecondsAfterFinished"] = time_to_live
        self.world = World(spec(*variants, **fields), most_variants=most_variants)
        self.cost = 0
        self.ended_as: str | None = None

    def _one(self, among: list[Any], number: int) -> Any:
        return among[number % len(among)]

    # The shell.

    @rule()
    def look(self) -> None:
        self.world.look()

    @rule(replicas_started=st.integers(0, 1))
    def die_while_doing(self, replicas_started: int) -> None:
        decided = self.world.write()
        self.world.apply(decided, replicas_started=replicas_started)

    @rule()
    def die_before_doing(self) -> None:
        self.world.write()

    @rule()
    def forget_what_was_asked(self) -> None:
        self.world.asked_to_stop.clear()

    # The world.

    @rule(seconds=st.sampled_from([-3, 0, 1, 7, 29, 100, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.passes(seconds)
        if self.world.live() and seconds > 0:
            self.cost += seconds // 10
            self.world.bill = bill(str(self.cost))

    @precondition(lambda self: self.world.live())
    @rule(
        number=pick, code=st.sampled_from(EXIT_CODES), disrupted=st.booleans(), echo=st.booleans(), seen=st.booleans()
    )
    def a_replica_ends(self, *, number: int, code: int | None, disrupted: bool, echo: bool, seen: bool) -> None:
        said = {"echo": True, "message": "connection lost"} if echo and code == 1 else None
        self.world.end(self._one(self.world.live(), number), code, disrupted=disrupted and code != 0, said=said)
        if seen:
            self.world.look()

    @precondition(lambda self: self.world.live())
    @rule(number=pick)
    def a_whole_gang_ends_well(self, number: int) -> None:
        self.world.end_all(0, self._one(self.world.live(), number).stage)

    @precondition(lambda self: self.world.live())
    @rule(number=pick)
    def a_variant_ends_without_a_report(self, number: int) -> None:
        who = self._one(self.world.live(), number)
        self.world.end(who, 0, reported=False)

    @rule(code=st.sampled_from([143, 143, -9, 0]))
    def the_stopped_obey(self, code: int) -> None:
        self.world.look()
        self.world.obey(code)
        self.world.look()

    @precondition(lambda self: self.world.replicas)
    @rule(number=pick)
    def a_replica_vanishes(self, number: int) -> None:
        self.world.replicas.pop(self._one(list(self.world.replicas), number))

    @precondition(lambda self: self.world.live())
    @rule(number=pick, step=st.integers(0, 100))
    def a_replica_stirs(self, number: int, step: int) -> None:
        self.world.stirs(self._one(self.world.live(), number), step)

    @precondition(lambda self: self.world.live())
    @rule(number=pick, reason=st.sampled_from(["a node", "its image"]), admitted=st.booleans())
    def a_replica_turns_out_to_wait(self, *, number: int, reason: str, admitted: bool) -> None:
        self.world.waits(self._one(self.world.live(), number), reason, admitted=admitted)

    @precondition(lambda self: any(each.waiting_for for each in self.world.live()))
    @rule(number=pick)
    def a_waiting_replica_runs(self, number: int) -> None:
        self.world.runs(self._one([each for each in self.world.live() if each.waiting_for], number))

    @precondition(lambda self: self.world.started)
    @rule(number=pick, size=st.integers(1, 2))
    def a_queue_admits_a_part(self, number: int, size: int) -> None:
        self.world.gang_sizes[self._one(self.world.started, number)] = size

    @rule(number=pick)
    def a_replica_of_an_old_attempt_comes_back(self, number: int) -> None:
        now = {(stage.name, stage.attempt) for stage in self.world.status.stages}
        old = [attempt for attempt in self.world.started if attempt not in now]
        if old:
            stage, attempt = self._one(old, number)
            ghost = replica(GHOST, stage=stage, attempt=attempt)
            self.world.replicas[ghost.uid] = ghost

    # The user.

    @rule(suspend=st.booleans())
    def suspend_or_resume(self, suspend: bool) -> None:
        self.world.edit(suspend=suspend)

    @precondition(lambda self: self.world.spec.budget is not None)
    @rule(amount=st.sampled_from(["5", "10", "40", "1000"]), action=st.sampled_from(["CheckpointAndSuspend", "Fail"]))
    def edit_the_budget(self, amount: str, action: str) -> None:
        self.world.edit(budget={"amount": amount, "onExceeded": action})

    @rule(deadline=st.sampled_from([None, 50, 10_000]))
    def edit_the_deadline(self, deadline: int | None) -> None:
        self.world.edit(activeDeadlineSeconds=deadline)

    @rule(variants=st.sampled_from([[], [INT8], [PRUNED, INT8]]))
    def edit_the_variants(self, variants: list[Any]) -> None:
        self.world.edit(compress=variants)

    @rule(lost=st.booleans())
    def prices_are_lost_or_found(self, lost: bool) -> None:
        if self.world.spec.budget is not None:
            self.world.bill = bill(None, unpriced=("cpu",)) if lost else bill(str(self.cost))

    # What holds over the whole history.

    @invariant()
    def an_end_is_final(self) -> None:
        condition = self.world.status.condition("Succeeded")
        found = condition.reason if condition and is_final(self.world.status) else None
        if self.ended_as is not None:
            assert found == self.ended_as
        self.ended_as = found

    @invariant()
    def a_stage_has_one_live_attempt(self) -> None:
        own = [each for each in self.world.live() if each.index != GHOST]
        for stage in {each.stage for each in own}:
            assert len({each.attempt for each in own if each.stage == stage}) == 1, f"two live attempts of {stage}"

    @invariant()
    def records_say_what_was_counted(self) -> None:
        for record in self.world.records.values():
            end = self.world.counted.get((record.stage, record.attempt))
            if end is not None and record.index != GHOST:
                assert record.outcome in OUTCOMES[end.counted], f"{record} of an attempt that was counted as {end}"
                assert (record.outcome == "Stalled") <= (end.reason == "Stalled")

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for _ in range(STEPS_UNTIL_REST):
            before, quiet = self.world.status, not self.world.live()
            decided = self.world.look()
            paused = [stage for stage in self.world.status.stages if stage.state == "Starting"] and not decided.start
            if paused and decided.requeue_after:
                self.world.passes(decided.requeue_after.total_seconds())
            idle = not (paused or decided.start or decided.stop) and decided.requeue_after != timedelta(0)
            if quiet and idle and self.world.status == before:
                break
            self.world.obey()
            self.world.end_all(0)
            self.world.passes(1)
        else:
            raise AssertionError(f"the job does not come to rest: {self.world.status}")
        self.records_say_what_was_counted()
        assert self.world.records.keys() >= self.world.replicas.keys(), "an end is not recorded"
        status, job = self.world.status, self.world.spec
        assert is_final(status) or is_suspended(status)
        if not is_final(status):
            assert job.suspend or job.budget is not None


History.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


TestAnyHistory = History.TestCase


@pytest.mark.parametrize("seed", range(30))
def test_a_long_history_comes_to_rest(seed: int) -> None:
    """Longer lives than the state machine draws: many attempts, many executions, most of what happens is seen."""
    random = Random(seed)
    history = History()
    history.begin(
        variants=(INT8, PRUNED),
        nodes=2,
        limits={
            "maxFailures": 8,
            "maxDisruptions": 12,
            "stallTimeoutSeconds": 30,
            "backoffSeconds": random.choice([0, 2, 40]),
        },
        deadline=None,
        budget=random.choice([None, "CheckpointAndSuspend"]),
        time_to_live=100,
        most_variants=random.choice([None, 1]),
        suspended=False,
    )
    for _ in range(150):
        happening = random.random()
        if happening < 0.25 and history.world.live():
            code, echo = random.choice([1, 1, -9, 143, None]), random.random() < 0.3
            history.a_replica_ends(number=random.randrange(99), code=code, disrupted=echo, echo=echo, seen=True)
        elif happening < 0.3 and history.world.live():
            history.a_whole_gang_ends_well(number=0)
        elif happening < 0.45:
            history.the_stopped_obey(code=random.choice([143, -9]))
        elif happening < 0.55:
            history.time_passes(seconds=random.choice([1, 29, 31]))
        elif happening < 0.6:
            history.suspend_or_resume(suspend=random.random() < 0.4)
        elif happening < 0.65:
            history.die_while_doing(replicas_started=random.randrange(2))
        elif happening < 0.7:
            history.die_before_doing()
        elif happening < 0.73 and history.world.replicas:
            history.a_replica_vanishes(number=random.randrange(99))
        elif happening < 0.8 and history.world.live():
            history.a_replica_turns_out_to_wait(number=random.randrange(99), reason="a node", admitted=False)
        else:
            history.look()
        history.an_end_is_final()
        history.a_stage_has_one_live_attempt()
        history.records_say_what_was_counted()
    history.teardown()
