"""The HTTP port: /metrics, /healthz (must this process be restarted), /readyz (is it in service now)."""

import time

from aiohttp import web

from costopt_operator.kube.api import Api
from costopt_operator.serve.leader_election import Leadership
from costopt_operator.serve.metrics import Metrics
from costopt_operator.watch.list_watch import SILENCE_SECONDS
from costopt_operator.watch.object_cache import Cluster
from costopt_operator.watch.work_queue import WorkQueue

UNHEALTHY_SECONDS = 2.5 * SILENCE_SECONDS
"""A watch that has received nothing for this long does not recover by itself, so the process is restarted. Well above
the restart time of an API server, where restarting this process does not help."""


class Health:
    """What this process knows about itself."""

    def __init__(self, metrics: Metrics, leadership: Leadership | None, *, tells_metrics: bool = True) -> None:
        self._metrics = metrics
        self._tells_metrics = tells_metrics
        self._leadership = leadership
        self.cluster: Cluster | None = None
        """Set while this process acts."""
        self.queue: WorkQueue | None = None
        self.api: Api | None = None

    def problems(self) -> list[str]:
        """Faults that last too long, as sentences."""
        now = time.monotonic()
        found = []
        if self.cluster is not None:
            found += [
                f"the watch of {watch.path} has heard nothing for {now - watch.last_heard:.0f} s"
                for watch in self.cluster.watches
                if now - watch.last_heard > UNHEALTHY_SECONDS and not watch.refused
            ]
            if self.cluster.deaf:
                found.append("kopf has not reported what a list of the jobs shows")
        elif self._leadership is not None and now - self._leadership.tried_at > UNHEALTHY_SECONDS:
            found.append("the API server has not answered about the lease for long")
        return found

    def ready(self) -> bool:
        """Whether it is on standby, or acts with all its watches synchronised."""
        return self.cluster is None or all(watch.synced.is_set() or watch.refused for watch in self.cluster.watches)

    def application(self) -> web.Application:
        """The HTTP application."""
        application = web.Application()
        if self._tells_metrics:
            application.router.add_get("/metrics", self._metrics_page)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        return application

    async def _healthz(self, _request: web.Request) -> web.Response:
        problems = self.problems()
        return web.Response(text="; ".join(problems) or "ok", status=503 if problems else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = self.ready() and not self.problems()
        acts = "acting" if self.cluster is not None else "standing by"
        return web.Response(text=acts if ready else "not ready", status=200 if ready else 503)

    async def _metrics_page(self, _request: web.Request) -> web.Response:
        metrics = self._metrics
        metrics.leading.set(self.cluster is not None)
        if self.cluster is not None:
            metrics.jobs.set(len(self.cluster.jobs))
            metrics.pods.set(len(self.cluster.pods))
            for children in (self.cluster.child_jobs, self.cluster.pods, self.cluster.services):
                now = time.monotonic()
                metrics.relists.labels(children.kind).set(sum(watch.relists for watch in children.watches))
                metrics.silence.labels(children.kind).set(max(now - watch.last_heard for watch in children.watches))
        if self.queue is not None:
            metrics.queue.set(len(self.queue))
        if self.api is not None:
            for (verb, resource), count in self.api.requests.items():
                metrics.requests.labels(verb, resource).set(count)
        return web.Response(body=metrics.text(), content_type="text/plain", charset="utf-8")
