"""Torch's elastic agent for one replica: rendezvous, rank numbers and monitoring are torch's, the processes are ours.

torch's documented way to extend its agent is to subclass SimpleElasticAgent. Its LocalElasticAgent is not used, because
it lets ranks hang for 30 s after a peer has died, tees their output through files it polls, and waits up to 300 s at
the end for replicas that have failed.
"""

import contextlib
import os
import signal
import time
from typing import Any, Protocol

from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from costopt.isolation import own_program
from costopt.schema.replica import EXIT_DONE
from costopt_trainer.launch.rank_processes import LocalRanks
from costopt_trainer.launch.rendezvous import GangRendezvous

WORKER_ARGV = own_program("costopt_trainer.worker")
MONITOR_SECONDS = 0.1
EXIT_BARRIER_SECONDS = 300.0
"""How long replica 0, which holds the store, waits for ranks of other replicas that finish after its own."""
_ENDED_KEY = "costopt/ended/{node}"


class GangWatch(Protocol):
    """What the agent asks of whoever knows the rest of the gang."""

    def met(self) -> None:
        """All replicas have met, and the ranks of the round are about to start."""

    def failed_here(self) -> None:
        """A rank of this replica has failed, and the others are about to be ended."""

    def is_broken(self) -> bool:
        """Whether the ranks here are to be ended: those of another replica have failed, or all hang."""


class ReplicaAgent(SimpleElasticAgent):
    """Runs the ranks of one replica for one round; `ranks.ends` says how they ended."""

    def __init__(
        self,
        rendezvous: GangRendezvous,
        ranks: LocalRanks,
        *,
        processes_per_node: int,
        watch: GangWatch,
        max_rounds: int,
    ) -> None:
        """`max_rounds` is what ranks are told of restarts in place; the agent itself makes none."""
        spec = WorkerSpec(
            role="costopt",
            local_world_size=processes_per_node,
            rdzv_handler=rendezvous,
            entrypoint=WORKER_ARGV[0],
            args=WORKER_ARGV[1:],
            max_restarts=0,
            monitor_interval=MONITOR_SECONDS,
        )
        super().__init__(spec)
        self._ranks = ranks
        self._watch = watch
        self._round = rendezvous.round
        self._max_rounds = max_rounds

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        environments = {}
        for worker in worker_group.workers:
            environments[worker.global_rank] = {
                "RANK": str(worker.global_rank),
                "LOCAL_RANK": str(worker.local_rank),
                "WORLD_SIZE": str(worker.world_size),
                "LOCAL_WORLD_SIZE": str(worker_group.spec.local_world_size),
                "GROUP_RANK": str(worker_group.group_rank),
                "GROUP_WORLD_SIZE": str(worker_group.group_world_size),
                "ROLE_NAME": worker_group.spec.role,
                "ROLE_RANK": str(worker.role_rank),
                "ROLE_WORLD_SIZE": str(worker.role_world_size),
                "MASTER_ADDR": str(worker_group.master_addr),
                "MASTER_PORT": str(worker_group.master_port),
                "TORCHELASTIC_RUN_ID": worker_group.spec.rdzv_handler.get_run_id(),
                "TORCHELASTIC_RESTART_COUNT": str(self._round),
                "TORCHELASTIC_MAX_RESTARTS": str(max(self._round, self._max_rounds)),
                "TORCHELASTIC_USE_AGENT_STORE": str(worker_group.spec.rdzv_handler.use_agent_store),
            }
        self._watch.met()
        pids = self._ranks.start(WORKER_ARGV, environments)
        return dict(enumerate(pids))

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if not self._ranks.poll(self._watch.failed_here):
            if not self._watch.is_broken():
                return RunResult(state=WorkerState.HEALTHY)
            self._ranks.end()
            self._say_ended(worker_group.store)
            return RunResult(state=WorkerState.FAILED)
        workers = {worker.global_rank: worker for worker in worker_group.workers}
        failures = {
            end.rank: ProcessFailure(workers[end.rank].local_rank, workers[end.rank].id, end.exit_code, error_file="")
            for end in self._ranks.ends
            if end.exit_code != EXIT_DONE
        }
        if failures:
            self._say_ended(worker_group.store)
            return RunResult(state=WorkerState.FAILED, failures=failures)
        return RunResult(state=WorkerState.SUCCEEDED, return_values=dict.fromkeys(workers))

    def _stop_workers(self, worker_group: WorkerGroup) -> None:  # noqa: ARG002
        self._ranks.end()

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:  # noqa: ARG002
        self._ranks.end()

    def _exit_barrier(self) -> None:
        """Announce that this replica has ended; replica 0 waits until all have, or one failed, or it is to stop."""
        group = self._worker_group
        self._say_ended(group.store)
        if group.group_rank != 0 or group.store is None:
            return
        others = [_ENDED_KEY.format(node=node) for node in range(1, group.group_world_size)]
        deadline = time.monotonic() + EXIT_BARRIER_SECONDS
        while others and not self._ranks.told_to_stop and time.monotonic() < deadline:
            if group.store.check(others) or self._watch.is_broken():
                return
            time.sleep(MONITOR_SECONDS)

    def _say_ended(self, store: Store | None) -> None:
        if store is not None:
            with contextlib.suppress(Exception):  # replica 0 may be gone already
                store.set(_ENDED_KEY.format(node=self._worker_group.group_rank), str(os.getpid()))
