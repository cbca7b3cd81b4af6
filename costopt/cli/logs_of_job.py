"""The logs of a job's pods on a cluster, as long as the pods exist."""

import queue
import sys
import threading
from collections.abc import Callable, Iterator

from costopt.cli.logs_of_run import form
from costopt.cli.replicas import Choice, Found, choose
from costopt.cluster.api import Cluster
from costopt.cluster.jobs import ClusterJob, Jobs
from costopt.cluster.patience import Patience, Told
from costopt.cluster.pod_logs import follow_log, read_log
from costopt.cluster.pods import ReplicaPod, pods_of
from costopt.cluster.refusals import NoLog, NotThere
from costopt.plan.decide import is_final
from costopt.refused import Refused

LOOK_EVERY_SECONDS = 2.0
"""Between two checks for newly started pods."""

MAX_FOLLOWED = 64
"""Replicas followed at a time: each needs a thread here and a connection to the API server."""


def print_logs(jobs: Jobs, job: ClusterJob, choice: Choice, *, tail: int | None, follow: bool, output: str) -> None:
    """Print the logs of the chosen replicas, until the job ends if `follow`."""
    pods = pods_of(jobs.cluster, job.namespace, job.uid)
    if not pods and (is_final(job.status) or not follow):
        _print_what_is_left(job)
    elif follow:
        _Following(jobs, job, choice, tail, output).run()
    else:
        _print_now(jobs.cluster, _chosen(pods, choice), tail, output)


def _print_what_is_left(job: ClusterJob) -> None:
    """The pods are gone, or never existed: say so, and print what the status kept."""
    failure = job.status.failure
    if not any(stage.state != "Waiting" for stage in job.status.stages):
        raise Refused(f"job {job.name} has no logs yet: none of its pods was created")
    gone = f"job {job.name} has no pods any more, and their logs went with them"
    if failure is None or not failure.log_tail:
        raise Refused(f"{gone}; a cluster-wide log store, if there is one, may have kept them")
    print(f"{gone}; the last lines of the replica that failed are in its status:", file=sys.stderr)
    for line in failure.log_tail:
        print(line)


def _print_now(cluster: Cluster, pods: list[ReplicaPod], tail: int | None, output: str) -> None:
    for pod in pods:
        if pod.waits_for is not None:
            print(f"{pod.replica}: not running yet, waits for {pod.waits_for}", file=sys.stderr)
            continue
        shape = form(pod.replica, output, alone=len(pods) == 1)
        try:
            for line in read_log(cluster, pod, tail=tail):
                print(shape(line))
        except NotThere:
            print(f"{pod.replica}: its pod is gone", file=sys.stderr)
        except NoLog as error:  # one of many; the others' are printed
            if len(pods) == 1:
                raise
            print(f"{pod.replica}: {error}", file=sys.stderr)


def _chosen(pods: list[ReplicaPod], choice: Choice) -> list[ReplicaPod]:
    found = {pod.name: pod for pod in pods}
    replicas = [Found(pod.stage, pod.attempt, pod.index, pod.created, pod.name) for pod in pods]
    return [found[one.key] for one in choose(replicas, choice)]


class _Following:
    """Follows the chosen replicas, each in its own thread, and prints their lines as they come."""

    def __init__(self, jobs: Jobs, job: ClusterJob, choice: Choice, tail: int | None, output: str) -> None:
        self._jobs = jobs
        self._job = job
        self._choice = choice
        self._tail = tail
        self._output = output
        self._told = Told(lambda sentence: print(sentence, file=sys.stderr, flush=True))
        self._patience = Patience(self._told)
        self._said: queue.SimpleQueue[str | Refused] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}

    def run(self) -> None:
        """Print until the job, or its chosen part, has ended."""
        is_told = False
        while True:
            wanted = self._wanted()
            for pod in wanted:
                self._begin(pod)
            if not self._threads and not is_told:
                print("no replica has begun yet; waiting for one", file=sys.stderr)
                is_told = True
            was_over = self._is_over(wanted)
            for line in self._lines():
                print(line, flush=True)
            if was_over:
                return

    def _wanted(self) -> list[ReplicaPod]:
        pods = self._patience.ask(lambda: pods_of(self._jobs.cluster, self._job.namespace, self._job.uid))
        return _chosen(pods, self._choice) if pods else []

    def _begin(self, pod: ReplicaPod) -> None:
        if pod.uid in self._threads:
            return
        if sum(thread.is_alive() for thread in self._threads.values()) >= MAX_FOLLOWED:
            raise Refused(f"at most {MAX_FOLLOWED} replicas can be followed at a time; choose one with --index")
        shape = form(pod.replica, self._output, alone=self._choice.is_one)
        thread = threading.Thread(target=self._follow, args=(pod, shape), daemon=True)
        self._threads[pod.uid] = thread
        thread.start()

    def _follow(self, pod: ReplicaPod, shape: Callable[[str], str]) -> None:
        try:
            for line in follow_log(self._jobs.cluster, pod, Patience(self._told), tail=self._tail):
                self._said.put(shape(line))
        except Refused as error:
            self._said.put(error)

    def _is_over(self, wanted: list[ReplicaPod]) -> bool:
        """Whether no line will come after those already in the queue."""
        if any(thread.is_alive() for thread in self._threads.values()):
            return False
        if not self._choice.is_open and wanted:
            return all(pod.has_ended for pod in wanted)
        job = self._patience.ask(lambda: self._jobs.find(self._job.name))
        return job is None or job.uid != self._job.uid or is_final(job.status)

    def _lines(self) -> Iterator[str]:
        """Lines that come until the next check for new pods is due."""
        wait = LOOK_EVERY_SECONDS
        while True:
            try:
                said = self._said.get(timeout=wait)
            except queue.Empty:
                return
            if isinstance(said, Refused):
                raise said
            yield said
