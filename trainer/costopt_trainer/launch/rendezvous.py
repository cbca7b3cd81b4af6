"""How the launchers of a gang find each other: replica 0 holds torch's store at a known address, the others wait.

They meet once, and keep the store. For each later round, in which ranks are started anew, replica 0 opens a store for
these ranks alone, at a port of its own: torch's ranks would find the addresses of dead ones in the first.

A static rendezvous like torch's own (node rank and number of nodes are given), with what a cluster also needs: waiting
for names that do not resolve yet and ports that nobody listens on yet, and one sentence at the timeout.
"""

import os
import socket
import sys
import time
from datetime import timedelta

from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from costopt_trainer.phases import phase
from costopt_trainer.replica_settings import Address

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
CONNECT_SECONDS = 5.0
MEET_AGAIN_SECONDS = 30.0
"""How long replicas that have agreed on another round wait for each other."""
FIRST_NOTE_SECONDS = 5.0
"""The log mentions the wait after this long, then each time it has doubled."""


class RendezvousFailed(Exception):
    """The gang did not meet; the message is one sentence."""


def wait_until_reachable(address: Address, timeout_seconds: float) -> None:
    """Return once something listens at `address`; raises RendezvousFailed after `timeout_seconds`."""
    began = time.monotonic()
    pause, next_note = FIRST_PAUSE_SECONDS, FIRST_NOTE_SECONDS
    while (problem := _try_connect(address)) is not None:
        waited = time.monotonic() - began
        if waited + pause > timeout_seconds:
            raise RendezvousFailed(
                f"Replica 0 was not reachable at {address} within {timeout_seconds:g} s ({problem})."
            )
        if waited >= next_note:
            print(
                f"costopt: waiting for replica 0 at {address} ({problem}), {waited:.0f} s of {timeout_seconds:g} s",
                file=sys.stderr,
                flush=True,
            )
            next_note *= 2
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)


def _try_connect(address: Address) -> str | None:
    try:
        with socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS) as connection:
            # On loopback, a connection to a free port can connect to itself (TCP simultaneous open).
            itself = connection.getsockname() == connection.getpeername()
            return "connected to itself" if itself else None
    except socket.gaierror as error:
        return f"the name does not resolve: {error.strerror}"
    except OSError as error:
        return error.strerror or str(error)


class GangRendezvous(RendezvousHandler):
    """Torch's rendezvous interface for replicas with a given number and given indices."""

    def __init__(self, address: Address, *, node: int, num_nodes: int, run_id: str, timeout_seconds: float) -> None:
        """`run_id`: the same in all replicas of the attempt, and in no other."""
        self._address = address
        self._node = node
        self._num_nodes = num_nodes
        self._run_id = run_id
        self._timeout_seconds = timeout_seconds
        self._gang_store: TCPStore | None = None
        self._ranks_store: TCPStore | None = None
        self.round = 0
        """Of the next meeting; the first is 0."""

    @property
    def use_agent_store(self) -> bool:
        """Ranks use this store too, instead of opening one on another port."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until all replicas are connected to the store; raises RendezvousFailed."""
        with phase("MeetingRanks"):
            return self._meet()

    def _meet(self) -> RendezvousInfo:
        if self._gang_store is not None:
            return self._meet_again(self._gang_store)
        if self._node > 0:
            wait_until_reachable(self._address, self._timeout_seconds)
        try:
            self._gang_store = self._open_store()
        except DistError as error:
            raise RendezvousFailed(self._sentence(error)) from error
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RendezvousFailed(f"Replica 0 cannot listen at {self._address}: {why}.") from error
        info = RendezvousStoreInfo(self._address.host, self._address.port)
        return RendezvousInfo(PrefixStore(self._run_id, self._gang_store), self._node, self._num_nodes, info)

    def _meet_again(self, gang_store: TCPStore) -> RendezvousInfo:
        """Raises RendezvousFailed if another launcher does not come: all have just agreed to."""
        gang_store.set_timeout(timedelta(seconds=MEET_AGAIN_SECONDS))
        store = PrefixStore(f"{self._run_id}/{self.round}", gang_store)
        try:
            if self._node == 0:
                self._ranks_store, port = self._open_ranks_store()
                store.set("port", str(port))
            port = int(store.get("port"))
            store.add("here", 1)
            self._wait_for_all(store)
        except (DistError, OSError, ValueError) as error:
            first_line = str(error).partition("\n")[0]
            raise RendezvousFailed(f"The replicas did not meet again ({first_line}).") from error
        return RendezvousInfo(store, self._node, self._num_nodes, RendezvousStoreInfo(self._address.host, port))

    def _wait_for_all(self, store: PrefixStore) -> None:
        deadline = time.monotonic() + MEET_AGAIN_SECONDS
        while (here := store.add("here", 0)) < self._num_nodes:
            if time.monotonic() > deadline:
                raise DistError(f"{here} of {self._num_nodes} came within {MEET_AGAIN_SECONDS:g} s")
            time.sleep(FIRST_PAUSE_SECONDS)

    def _open_ranks_store(self) -> tuple[TCPStore, int]:
        listener = _listen(Address(self._address.host, 0))
        with socket.socket(fileno=os.dup(listener)) as duplicate:
            port = int(duplicate.getsockname()[1])
        store = TCPStore(
            self._address.host if self._address.is_loopback else "127.0.0.1",
            port,
            is_master=True,
            timeout=timedelta(seconds=MEET_AGAIN_SECONDS),
            wait_for_workers=False,
            multi_tenant=False,
            master_listen_fd=listener,
        )
        return store, port

    @property
    def talk_store(self) -> PrefixStore | None:
        """Where launchers tell each other what they see; None before they have met."""
        return None if self._gang_store is None else PrefixStore(f"{self._run_id}/talk", self._gang_store.clone())  # type: ignore[attr-defined]

    def _open_store(self) -> TCPStore:
        listener = _listen(self._address) if self._node == 0 else None
        # Replica 0 reaches its own store without waiting for its own name to resolve.
        elsewhere = self._node > 0 or self._address.is_loopback
        return TCPStore(
            self._address.host if elsewhere else "127.0.0.1",
            self._address.port,
            world_size=self._num_nodes,
            is_master=self._node == 0,
            timeout=timedelta(seconds=self._timeout_seconds),
            wait_for_workers=True,
            multi_tenant=False,
            master_listen_fd=listener,
        )

    def _sentence(self, error: Exception) -> str:
        first_line = str(error).partition("\n")[0]
        who = f"Not all {self._num_nodes} replicas reached" if self._node == 0 else f"Replica {self._node} lost"
        return f"{who} the rendezvous at {self._address} within {self._timeout_seconds:g} s ({first_line})."

    def get_backend(self) -> str:
        """The name in torch's records."""
        return "costopt-static"

    def get_run_id(self) -> str:
        """As given."""
        return self._run_id

    def is_closed(self) -> bool:
        """Never."""
        return False

    def set_closed(self) -> None:
        """Nothing to close."""

    def num_nodes_waiting(self) -> int:
        """None: the number of replicas is fixed."""
        return 0

    def shutdown(self) -> bool:
        """The store ends with the launcher."""
        return True


def _listen(address: Address) -> int:
    """A listening socket, whose owner is the store. A gang on one machine is not reachable from outside."""
    if address.is_loopback:
        family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family, backlog=2048).detach()
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", address.port), family=family, dualstack_ipv6=both, backlog=2048).detach()
