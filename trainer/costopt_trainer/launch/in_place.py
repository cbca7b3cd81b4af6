"""One replica's ranks, round after round: when a rank has failed, all launchers meet again and start theirs anew.

meet -> start the ranks -> watch -> all ended well: done
                                 -> one failed, here or elsewhere, or all hang: end the rest, tell how it ended,
                                    wait for replica 0's verdict -> meet again, or the attempt ends
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from costopt import names
from costopt.oom_kills import count_oom_kills
from costopt.schema.replica import (
    EXIT_DONE,
    EarlierRounds,
    FailureReason,
    MeteredMilliseconds,
    ReplicaSettings,
    TerminationMessage,
    progress_in_log,
)
from costopt_trainer.launch.elastic_agent import ReplicaAgent
from costopt_trainer.launch.gang_talk import GangTalk
from costopt_trainer.launch.hangs import Watch, find_hang
from costopt_trainer.launch.rank_processes import LocalRanks
from costopt_trainer.launch.rendezvous import GangRendezvous, RendezvousFailed
from costopt_trainer.launch.rounds import RoundAccount, RoundEnd, Verdict, account_of_round, after_restart, decide
from costopt_trainer.launch.termination_message import (
    EXIT_FAILED,
    MESSAGE_CHARACTERS,
    clean,
    describe,
    first_failure,
    read_progress,
    rfc3339,
    stopped_without_ranks,
)
from costopt_trainer.phases import VOICE, phase
from costopt_trainer.replica_settings import ReplicaEnvironment

HEAR_SECONDS = 0.3
"""Between two questions whether another replica has failed; in gangs of more than 300, a millisecond for each."""
_NANOSECONDS_PER_MILLISECOND = 10**6


@dataclass
class _Round:
    """What is known of the round under way."""

    watch: Watch
    oom_kills_before: int
    asked_at: float = 0.0
    """When the others' failures were last asked for."""
    broken_by: TerminationMessage | None = None
    """Why ranks here were ended, if it was not a failure of theirs."""
    met: bool = False


class Replica:
    """Runs all rounds of one replica. It is the `GangWatch` of its agents."""

    def __init__(
        self,
        ranks: LocalRanks,
        environment: ReplicaEnvironment,
        settings: ReplicaSettings,
        *,
        rendezvous_timeout: float,
        started_ns: int,
        speak: Callable[[], None],
    ) -> None:
        """`started_ns`: when the launcher began, by the monotonic clock. `speak`: tell phases from now on, if it is
        this replica that does so for its gang."""
        self._ranks, self._environment, self._settings = ranks, environment, settings
        self._speak = speak
        self._rendezvous = GangRendezvous(
            environment.address,
            node=environment.index,
            num_nodes=settings.num_nodes,
            run_id=f"{settings.job_name}/{settings.stage}/{environment.attempt}",
            timeout_seconds=rendezvous_timeout,
        )
        self._talk = GangTalk(node=environment.index, num_nodes=settings.num_nodes)
        self._earlier = EarlierRounds()
        self._round_since_ns = started_ns
        self._in_a_row = 0
        self._reported_checkpoint = -1
        self._round = self._new_round()

    def run(self) -> TerminationMessage:
        """Run to the end of the attempt; how it ended. Raises what torch's agent raises, for which nobody is to blame
        but this launcher."""
        return self._with_earlier_rounds(self._run())

    def _run(self) -> TerminationMessage:
        failed: TerminationMessage | None = None
        while True:
            agent = ReplicaAgent(
                self._rendezvous,
                self._ranks,
                processes_per_node=self._settings.processes_per_node,
                watch=self,
                max_rounds=self._settings.in_place_restarts,
            )
            try:
                agent.run()
            except RendezvousFailed as error:
                self._talk.tell_end(self._rendezvous.round, self._leaving(str(error)))
                return failed or _without_a_rank("RendezvousFailed", str(error))
            message = self._describe()
            if message.exit_code == EXIT_DONE and not self._another_failed():
                self._talk.tell_end(self._rendezvous.round, self._end(message, leaves=True))
                return message
            failed = self._accounted(message)
            verdict = self._verdict(failed)
            if not verdict.restart or not self._ranks.forget():
                return self._last_word(failed, verdict)
            self._begin_anew(verdict)

    def stopped_without_ranks(self, why: str) -> TerminationMessage:
        """What is said of a stop at a moment when no rank runs. Called from the thread that hears of it."""
        progress = read_progress(self._environment.progress_file)
        between = self._rendezvous.round > 0 or bool(self._ranks.ends)
        return self._with_earlier_rounds(stopped_without_ranks(why, progress, between_rounds=between))

    # ---- what the agent asks

    def met(self) -> None:
        """See `GangWatch`."""
        self._round.met = True
        if self._talk.store is None and self._rendezvous.round == 0:
            self._talk.store = self._rendezvous.talk_store
        if self._settings.command is not None:
            with phase("RunningCommand"):
                pass
        VOICE.fall_silent()

    def failed_here(self) -> None:
        """See `GangWatch`."""
        if self._settings.in_place_restarts and not self._ranks.told_to_stop:
            self._talk.tell_failure(self._rendezvous.round, self._describe())

    def is_broken(self) -> bool:
        """See `GangWatch`."""
        if self._ranks.told_to_stop:
            return False  # they save, and are given all their time
        cause = self._heard() or self._hang()
        if cause is None:
            return False
        self._round.broken_by = cause
        if cause.reason == "Stalled":
            self._ranks.show_stacks()
        return True

    def _heard(self) -> TerminationMessage | None:
        now, pause = time.monotonic(), max(HEAR_SECONDS, self._settings.num_nodes / 1000)
        if now - self._round.asked_at < pause:
            return None
        self._round.asked_at = now
        return self._talk.heard_failure(self._rendezvous.round)

    def _hang(self) -> TerminationMessage | None:
        watch, number = self._round.watch, self._rendezvous.round
        if not watch.is_due() or not (running := self._ranks.running):
            return None
        sights = watch.look(running)
        self._talk.tell_sights(number, sights)
        hang = find_hang(sights, watch.stopped_seconds)
        if hang is not None and not any(sight.stopped_milliseconds for sight in sights):
            others = self._talk.sights_of_others(number) if self._environment.index == 0 else None
            hang = None if others is None else find_hang([*sights, *others], watch.stopped_seconds)
        if hang is None:
            return None
        rank = hang.rank
        message = TerminationMessage(
            exit_code=EXIT_FAILED,
            reason="Stalled",
            message=clean(hang.sentence, MESSAGE_CHARACTERS),
            rank=rank,
            replica_index=None if rank is None else rank // self._settings.processes_per_node,
            time=rfc3339(time.time()),
        )
        _say(f"{message.reason}: {message.message}")
        self._talk.tell_failure(number, message)
        return message

    # ---- after a round

    def _describe(self) -> TerminationMessage:
        kills = count_oom_kills() or 0
        return describe(
            first_failure(self._ranks.ends),
            replica_index=self._environment.index,
            memory_ran_out=kills > self._round.oom_kills_before,
            progress=read_progress(self._environment.progress_file),
        )

    def _another_failed(self) -> bool:
        """Whether ranks elsewhere failed after those here had ended well. Replica 0 has waited for the others."""
        if self._round.broken_by is None and self._environment.index == 0:
            self._round.broken_by = self._talk.heard_failure(self._rendezvous.round)
        return self._round.broken_by is not None

    def _accounted(self, message: TerminationMessage) -> TerminationMessage:
        """The message with the account of all rounds, the one that has failed included."""
        now_ns = time.monotonic_ns()
        beats = self._ranks.beats
        own = beats[0].metered if beats and beats[0] is not None and beats[0].beats else None
        elapsed = (now_ns - self._round_since_ns) // _NANOSECONDS_PER_MILLISECOND
        is_first = self._earlier.restarts == 0
        if own is None and self._settings.command is None:
            own = MeteredMilliseconds()  # it was killed before its first sign
        metered = account_of_round(self._earlier.metered, RoundAccount(elapsed, own), first=is_first)
        self._closed = metered, now_ns
        if is_first or message.progress is None:
            return message
        return message.model_copy(update={"progress": message.progress.model_copy(update={"metered": metered})})

    def _verdict(self, message: TerminationMessage) -> Verdict:
        number, limit = self._rendezvous.round, self._settings.in_place_restarts
        leaves = self._ranks.told_to_stop or limit == 0
        end = self._end(message, leaves=leaves)
        self._talk.tell_end(number, end)
        none = Verdict(restart=False, why="", in_a_row=self._in_a_row, cause=self._round.broken_by)
        if leaves:
            return none

        def gives_up() -> bool:
            return self._ranks.told_to_stop

        if self._environment.index > 0:
            return self._talk.wait_for_verdict(number, gives_up) or none
        ends = {0: end, **self._talk.ends_of_others(number, gives_up)}
        hang = self._round.broken_by if self._round.broken_by and self._round.broken_by.reason == "Stalled" else None
        verdict = decide(ends, hang, self._in_a_row, limit)
        self._talk.tell_verdict(number, verdict, lambda: gives_up() or None in ends.values())
        return verdict

    def _end(self, message: TerminationMessage, *, leaves: bool) -> RoundEnd:
        plain = message.model_copy(update={"log_tail": [], "progress": None, "variant": None})
        return RoundEnd(message=plain, by_itself=self._is_own_failure(), saved=self._has_saved(), leaves=leaves)

    def _leaving(self, why: str) -> RoundEnd:
        return RoundEnd(message=_without_a_rank("RendezvousFailed", why), by_itself=True, saved=False, leaves=True)

    def _is_own_failure(self) -> bool:
        first = first_failure(self._ranks.ends)
        return first is not None and first.by_itself

    def _has_saved(self) -> bool:
        if any(beat is not None and beat.checkpoints for beat in self._ranks.beats):
            return True
        # A program of the user's may print its progress; it is read from the first rank alone, as by the shells.
        told = progress_in_log(self._ranks.first_lines()) if self._environment.index == 0 else None
        step = told.last_checkpoint_step if told is not None else None
        if step is None or step <= self._reported_checkpoint:
            return False
        self._reported_checkpoint = step
        return True

    def _last_word(self, message: TerminationMessage, verdict: Verdict) -> TerminationMessage:
        """How the attempt ended: by a failure here, else by the gang's, of which this is an echo then."""
        if self._ranks.told_to_stop:
            in_time = message.exit_code != EXIT_FAILED or self._settings.in_place_restarts == 0
            late = any(end.told_to_stop for end in self._ranks.ends)
            return message if in_time or late else self.stopped_without_ranks("SIGTERM")
        if verdict.why:
            _say(f"ranks are not started anew in place: {verdict.why}")
        cause = verdict.cause
        if cause is None or message.exit_code == EXIT_DONE or self._is_own_failure():
            return message
        return cause.model_copy(
            update={
                "echo": cause.replica_index != self._environment.index,
                "progress": message.progress,
                "log_tail": message.log_tail,
            }
        )

    def _with_earlier_rounds(self, message: TerminationMessage) -> TerminationMessage:
        """The message; of a program that tells no progress, with what its earlier rounds have cost."""
        if message.progress is not None or not self._earlier.restarts:
            return message
        return message.model_copy(update={"earlier_rounds": self._earlier.model_copy(update={"cause": None})})

    def _begin_anew(self, verdict: Verdict) -> None:
        metered, now_ns = self._closed
        cause = verdict.cause
        self._earlier = after_restart(self._earlier, metered, cause)
        told = f"{cause.reason}: {cause.message}" if cause is not None else "a rank failed"
        _say(f"{told}; starting all ranks anew in place ({verdict.why})")
        os.environ[names.ENV_EARLIER_ROUNDS] = self._earlier.model_dump_json(by_alias=True, exclude_none=True)
        os.environ[names.ENV_LAUNCHER_STARTED] = str(now_ns)
        self._round_since_ns = now_ns
        self._in_a_row = verdict.in_a_row
        self._rendezvous.round += 1
        self._round = self._new_round()
        self._speak()

    def _new_round(self) -> _Round:
        # A variant is made by one rank, whose pieces may take long; the shell finds it when it falls silent.
        gives_signs = self._settings.command is None and self._settings.variant is None
        return _Round(Watch(self._settings.hang_timeout_seconds, gives_signs=gives_signs), count_oom_kills() or 0)


def _without_a_rank(reason: FailureReason, sentence: str) -> TerminationMessage:
    return TerminationMessage(exit_code=EXIT_FAILED, reason=reason, message=clean(sentence, MESSAGE_CHARACTERS))


def _say(sentence: str) -> None:
    print(f"costopt: {sentence}", file=sys.stderr, flush=True)
