"""Leader election: one of the operator processes acts, the holder of a Lease.

The election is the official client's. Around it stand four guards. A request that hangs or fails counts as one try
that failed, and not as the end of the election. A leader that could not renew its lease for RENEW_SECONDS by its own
clock writes nothing more, even if it has not noticed yet: its lease lasts longer than that, so no other leads so soon.
A leader that ends gives the lease back, so that its successor need not wait it out. And whether another's lease has run
out is decided by how long this process has not seen it change, by its own steady clock: the client asks the time of
day, which jumps when it is set, and no clock of another machine is ever asked.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration, V1Lease, V1ObjectMeta
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection import electionconfig, leaderelection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from costopt_operator.kube.connection import client_of

log = logging.getLogger(__name__)

LEASE_SECONDS = 12
"""A lease that was not renewed for this long may be taken by another process."""
RENEW_SECONDS = 8
"""A leader that could not renew its lease for this long stops."""
RETRY_SECONDS = 2
"""Pause between two tries to take or renew the lease."""
ENDING_SECONDS = 10.0
"""Longest time that `act` may take to end after it is cancelled."""
TRY_SECONDS = 3.0
"""Longest time for one request of a try."""


class Leadership:
    """Whether this process may act."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._renewed: float | None = None
        self._over = False
        self.tried_at = clock()
        """When the API server last answered anything about the lease."""

    def renewed(self) -> None:
        """The lease has just been taken or renewed."""
        if not self._over:
            self._renewed = self._clock()

    def lost(self) -> None:
        """The lease is lost; this process will not take it again."""
        self._over = True
        self._renewed = None

    def holds(self) -> bool:
        """Whether the lease is held for certain."""
        return self._renewed is not None and self._clock() - self._renewed < RENEW_SECONDS


class _GuardedLock(LeaseLock):
    """The client's lock, but a hanging or refused connection is a failed try and not the end of the election."""

    def __init__(self, name: str, namespace: str, identity: str, client: ApiClient, leadership: Leadership) -> None:
        super().__init__(name, namespace, identity, client)
        self._leadership = leadership
        self._seen: tuple[object, ...] | None = None
        self._seen_at = 0.0
        self._told: int | None = None

    async def get(
        self, name: str, namespace: str
    ) -> tuple[bool, LeaderElectionRecord] | tuple[bool, Exception] | tuple[bool, None]:
        """The election record; (False, why) if it cannot be had."""
        try:
            async with asyncio.timeout(TRY_SECONDS):
                answer = await super().get(name, namespace)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return False, ApiException(status=0, reason=f"the API server cannot be reached: {error}")
        self._leadership.tried_at = time.monotonic()
        found = answer[1]
        if isinstance(found, ApiException):
            self._tell(found)
        return self._by_own_clock(found) if isinstance(found, LeaderElectionRecord) else answer

    def _tell(self, refused: ApiException) -> None:
        """Log why the lease cannot be taken, once per reason: else a missing right would be waited for silently."""
        if refused.status not in (404, self._told):
            self._told = refused.status
            log.warning("the lease cannot be read: %s %s", refused.status, refused.reason)

    def _by_own_clock(
        self, found: LeaderElectionRecord
    ) -> tuple[bool, LeaderElectionRecord] | tuple[bool, Exception] | tuple[bool, None]:
        """The record; without its holder once another's has run out, and nothing as long as it has not."""
        if found.holder_identity in (None, self.identity):
            return True, found
        seen = (found.holder_identity, found.acquire_time, found.renew_time)
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        if time.monotonic() - self._seen_at < LEASE_SECONDS:
            return False, ApiException(status=0, reason=f"the lease is held by {found.holder_identity}")
        return True, LeaderElectionRecord(None, None, None, None)

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Whether the lease could be made. (The client's own `create` fails on an argument of its own, as of 37.0.)"""
        lease = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        return await self._renew(self._create(namespace, lease))

    async def _create(self, namespace: str, lease: V1Lease) -> bool:
        try:
            self.lease_reference = await self.api_instance.create_namespaced_lease(namespace, lease)
        except ApiException as error:
            log.warning("the lease cannot be made: %s %s", error.status, error.reason)
            return False
        return True

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Whether the lease could be taken or renewed."""
        return await self._renew(super().update(name, namespace, updated_record))

    async def _renew(self, request: Coroutine[Any, Any, bool]) -> bool:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(TRY_SECONDS):
                done = await request
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        if done and time.monotonic() - asked < RENEW_SECONDS:
            self._leadership.renewed()
        return done


class _Election(leaderelection.LeaderElection):
    """The client's election, but how long renewing has failed is measured by a steady clock."""

    async def renew_loop(self) -> None:
        """Renew the lease until that has failed for RENEW_SECONDS."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < RENEW_SECONDS:
            asked = time.monotonic()
            if await self.try_acquire_or_renew():
                renewed = asked
            await asyncio.sleep(self.election_config.retry_period)


async def lead(
    configuration: Configuration,
    leadership: Leadership,
    *,
    name: str,
    namespace: str,
    identity: str,
    act: Callable[[], Coroutine[Any, Any, None]],
) -> bool:
    """Wait for the lease, then `act` while it is held; returns whether `act` has ended by itself (else: lease lost)."""
    client = client_of(configuration)
    lock = _GuardedLock(name, namespace, identity, client, leadership)
    acting: list[asyncio.Task[None]] = []

    async def started() -> None:
        acting.append(asyncio.ensure_future(act()))
        await asyncio.wait(acting)

    async def stopped() -> None:
        log.error("the lease is lost; stopping")

    quiet = logging.getLogger("kubernetes.aio.leaderelection")
    quiet.setLevel(logging.CRITICAL)  # its traceback for each failed try says no more than our line
    election = _Election(
        electionconfig.Config(
            lock,
            lease_duration=LEASE_SECONDS,
            renew_deadline=RENEW_SECONDS,
            retry_period=RETRY_SECONDS,
            onstarted_leading=started,
            onstopped_leading=stopped,
        )
    )
    electing = asyncio.ensure_future(election.run())
    try:
        while not electing.done():
            await asyncio.wait([electing, *acting], timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            if any(task.done() for task in acting):
                break
            if acting and not leadership.holds():
                log.error("the lease could not be renewed in time; stopping")
                break
    finally:
        ended = [task for task in (electing, *acting) if task.done() and not task.cancelled()]
        held = leadership.holds()
        leadership.lost()  # before anything else: from here on nothing is written
        for task in (electing, *acting):
            task.cancel()
        await asyncio.wait([electing, *acting], timeout=ENDING_SECONDS)
        if held:
            await _give_back(lock, name, namespace)
        await client.close()
    for task in ended:
        task.result()
    return bool(acting and acting[0] in ended)


async def _give_back(lock: _GuardedLock, name: str, namespace: str) -> None:
    with contextlib.suppress(ApiException, aiohttp.ClientError, TimeoutError, OSError):
        lease = lock.lease_reference
        if lease is not None:
            lease = await asyncio.wait_for(lock.api_instance.read_namespaced_lease(name, namespace), TRY_SECONDS)
            if lease.spec is not None and lease.spec.holder_identity == lock.identity:
                lease.spec.holder_identity = ""
                lease.spec.lease_duration_seconds = 1
                await asyncio.wait_for(
                    lock.api_instance.replace_namespaced_lease(name=name, namespace=namespace, body=lease), TRY_SECONDS
                )
                log.info("the lease is given back")
