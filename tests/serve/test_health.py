"""The probes say what is wrong, and the metrics name no job."""

import asyncio
import json
import time
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from builders.operator import pod
from costopt_operator.decide.objects import parse_job
from costopt_operator.serve.health import UNHEALTHY_SECONDS, Health
from costopt_operator.serve.leader_election import Leadership
from costopt_operator.serve.metrics import Metrics
from costopt_operator.watch.object_cache import Cluster
from costopt_operator.watch.work_queue import WorkQueue


class SomeApi:
    """Requests made so far: all that health asks for."""

    def __init__(self) -> None:
        self.requests = {("GET", "pods"): 3, ("PUT", "costoptjobs/status"): 2}


def get(health: Health, path: str) -> tuple[int, str]:
    """Status and body of one request."""

    async def go() -> tuple[int, str]:
        async with TestClient(TestServer(health.application())) as client:
            answer = await client.get(path)
            return answer.status, await answer.text()

    return asyncio.run(go())


def standing_by() -> tuple[Health, Leadership]:
    leadership = Leadership()
    return Health(Metrics(), leadership), leadership


def acting(*, synced: bool = True) -> tuple[Health, Cluster]:
    health, _ = standing_by()
    api: Any = SomeApi()
    cluster = Cluster(api, (), None, lambda _key, **_: None)
    health.cluster, health.queue, health.api = cluster, WorkQueue(), api
    if synced:
        for watch in cluster.watches:
            watch.synced.set()
    return health, cluster


def long_ago() -> float:
    return time.monotonic() - UNHEALTHY_SECONDS - 1


def test_metrics_are_not_served_where_they_are_not_wanted_and_probes_are() -> None:
    assert get(Health(Metrics(), None), "/metrics")[0] == 200
    silent = Health(Metrics(), None, tells_metrics=False)
    assert get(silent, "/metrics")[0] == 404
    assert [get(silent, path)[0] for path in ("/healthz", "/readyz")] == [200, 200]


def test_one_that_stands_by_is_ready_and_well() -> None:
    health, _ = standing_by()
    assert get(health, "/readyz") == (200, "standing by")
    assert get(health, "/healthz") == (200, "ok")


def test_one_that_acts_is_ready_once_it_has_the_whole_picture() -> None:
    health, cluster = acting(synced=False)
    assert get(health, "/readyz") == (503, "not ready")
    assert get(health, "/healthz") == (200, "ok")  # nothing is wrong yet
    for watch in cluster.watches:
        watch.synced.set()
    assert get(health, "/readyz") == (200, "acting")


def test_a_watch_that_has_been_silent_for_long_is_named() -> None:
    health, cluster = acting()
    cluster.pods.watches[0].last_heard = long_ago()
    status, text = get(health, "/healthz")
    assert status == 503
    assert "/api/v1/pods" in text
    assert get(health, "/readyz")[0] == 503


def test_a_quiet_minute_is_no_illness() -> None:
    health, cluster = acting()
    for watch in cluster.watches:
        watch.last_heard = time.monotonic() - 150
    assert get(health, "/healthz") == (200, "ok")


def test_kopf_that_misses_what_a_list_shows_is_an_illness() -> None:
    health, cluster = acting()
    cluster.deaf = True
    assert get(health, "/healthz") == (503, "kopf has not reported what a list of the jobs shows")


def test_one_that_stands_by_is_ill_if_nobody_answers_about_the_lease() -> None:
    health, leadership = standing_by()
    leadership.tried_at = long_ago()
    assert get(health, "/healthz") == (503, "the API server has not answered about the lease for long")


def test_one_without_a_lease_has_none_to_wait_for() -> None:
    health = Health(Metrics(), None)
    assert get(health, "/healthz") == (200, "ok")


def test_the_metrics_say_who_acts() -> None:
    health, _ = standing_by()
    assert "costopt_leading 0.0" in get(health, "/metrics")[1]
    health, _ = acting()
    assert "costopt_leading 1.0" in get(health, "/metrics")[1]


def test_the_metrics_count_what_is_known_and_name_no_job_or_pod() -> None:
    health, cluster = acting()
    metadata = {"name": "secret-plan", "namespace": "team", "uid": "u1", "generation": 1, "resourceVersion": "5"}
    job = {"apiVersion": "costopt.dev/v1alpha1", "kind": "CostOptJob", "metadata": metadata, "spec": {}}
    cluster.learn_job(parse_job(job))
    cluster.pods.learn(pod(0), "team")
    cluster.pods.learn(pod(1), "team")
    assert health.queue is not None
    health.queue.add(("team", "secret-plan"))
    cluster.pods.watches[0].relists = 4
    status, text = get(health, "/metrics")
    assert status == 200
    for line in (
        "costopt_jobs 1.0",
        "costopt_pods 2.0",
        "costopt_queue_length 1.0",
        'costopt_watch_relists{kind="Pod"} 4.0',
        'costopt_api_requests{resource="pods",verb="GET"} 3.0',
    ):
        assert line in text.splitlines(), json.dumps(text.splitlines(), indent=1)
    assert "secret-plan" not in text
    assert "train-a0" not in text
