"""Metrics for Prometheus. No label names a job or a pod: their number has no bound."""

from decimal import Decimal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from costopt.accounting.bill import make_bill
from costopt.plan.decide import is_final
from costopt.schema.status import JobStatus
from costopt.schema.usage import UsageRecord


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leading = Gauge(
            "costopt_leading", "1 while this process acts, 0 while it stands by.", registry=self.registry
        )
        self.jobs = Gauge("costopt_jobs", "Jobs known.", registry=self.registry)
        self.pods = Gauge("costopt_pods", "Pods of jobs known.", registry=self.registry)
        self.queue = Gauge("costopt_queue_length", "Jobs waiting to be looked at.", registry=self.registry)
        self.reconcile_seconds = Histogram(
            "costopt_reconcile_seconds",
            "Time of one look at one job.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self.registry,
        )
        self.errors = Counter(
            "costopt_reconcile_errors_total", "Failed reconciles, by reason.", ["reason"], registry=self.registry
        )
        self.relists = Gauge(
            "costopt_watch_relists", "Lists made again because a watch was too old.", ["kind"], registry=self.registry
        )
        self.silence = Gauge(
            "costopt_watch_silence_seconds",
            "Time since a watch last heard from the API server.",
            ["kind"],
            registry=self.registry,
        )
        self.requests = Gauge(
            "costopt_api_requests", "Requests to the API server.", ["verb", "resource"], registry=self.registry
        )
        self.ended = Counter(
            "costopt_jobs_ended_total", "Jobs that reached their end.", ["namespace", "reason"], registry=self.registry
        )
        self.attempts_lost = Counter(
            "costopt_attempts_lost_total",
            "Attempts that failed or were disrupted.",
            ["namespace", "kind"],
            registry=self.registry,
        )
        self.hours = Counter(
            "costopt_resource_hours_total",
            "Resource-hours of ended replicas.",
            ["namespace", "resource", "cause", "capacity_type"],
            registry=self.registry,
        )
        self.cost = Counter(
            "costopt_list_cost_total",
            "Money for ended replicas, at list prices.",
            ["namespace", "currency", "resource", "cause"],
            registry=self.registry,
        )
        self.unrecorded = Counter(
            "costopt_pods_ended_after_deletion_total",
            "Pods that ended after their job was deleted.",
            registry=self.registry,
        )

    def count(self, before: JobStatus, after: JobStatus, namespace: str) -> None:
        """Count what a status write contains: finished jobs, lost attempts, usage."""
        condition = after.condition("Succeeded")
        if condition is not None and is_final(after) and not is_final(before):
            self.ended.labels(namespace, condition.reason).inc()
        for stage in after.stages:
            known = before.stage(stage.name)
            failures = stage.failures - (known.failures if known else 0)
            disruptions = stage.disruptions - (known.disruptions if known else 0)
            self.attempts_lost.labels(namespace, "Failure").inc(max(0, failures))
            self.attempts_lost.labels(namespace, "Disruption").inc(max(0, disruptions))
        recorded = {record.uid for record in (before.usage.records if before.usage else [])}
        news = [record for record in (after.usage.records if after.usage else []) if record.uid not in recorded]
        if news:
            self._count_usage(news, namespace)

    def _count_usage(self, records: list[UsageRecord], namespace: str) -> None:
        bill = make_bill(records, None)
        for line in bill.lines:
            quantity = float(Decimal(line.consumed_quantity))
            self.hours.labels(namespace, line.resource, line.cause, line.capacity_type).inc(quantity)
            if line.list_cost is not None:
                cost = float(Decimal(line.list_cost))
                self.cost.labels(namespace, bill.currency or "", line.resource, line.cause).inc(cost)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
