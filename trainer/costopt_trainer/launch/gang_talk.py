"""What the launchers of a gang tell each other through replica 0's store, a key per round and subject.

The store belongs to another machine, which may be gone without a word: whatever asks it does so on a thread, with a
bound. Once it has not answered, this replica asks no more, and its attempt ends as if there were no restarts in place.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from torch.distributed import Store  # type: ignore[attr-defined]

from costopt.schema.base import Strict
from costopt.schema.replica import TerminationMessage
from costopt_trainer.launch.hangs import Sight
from costopt_trainer.launch.rounds import RoundEnd, Verdict

ANSWER_SECONDS = 10.0
"""For one question to the store."""
COME_BACK_SECONDS = 30.0
"""How long a replica may take to end its ranks (SIGTERM, 5 s, SIGKILL, 5 s, and what they left); after that it is
lost."""
POLL_SECONDS = 0.1

Answer = TypeVar("Answer")
Told = TypeVar("Told", bound=Strict)


class Sights(Strict):
    """What one launcher sees of its ranks."""

    ranks: list[Sight]
    """All of them, if all are silent; else none."""


class GangTalk:
    """One launcher's side. `store` None: it has not met the others yet, or they are out of reach."""

    def __init__(self, *, node: int, num_nodes: int) -> None:
        self.store: Store | None = None
        self._node, self._num_nodes = node, num_nodes
        self._has_told_silence = False

    @property
    def is_alone(self) -> bool:
        """A gang of one replica: there is nobody to tell."""
        return self._num_nodes == 1

    def tell_failure(self, round_number: int, message: TerminationMessage) -> None:
        """All are to end their ranks, because of this; the first to tell has told it."""
        if not self.is_alone:
            text = message.model_copy(update={"log_tail": [], "progress": None, "variant": None}).model_dump_json()
            self._ask(lambda store: store.compare_set(f"{round_number}/failure", "", text))

    def heard_failure(self, round_number: int) -> TerminationMessage | None:
        """Why all are to end their ranks; None: they are not."""
        return None if self.is_alone else self._read(f"{round_number}/failure", TerminationMessage)

    def tell_sights(self, round_number: int, sights: list[Sight]) -> None:
        """What the ranks here show, if all are silent; else that they work, once."""
        is_silent = all(sight.is_over for sight in sights)
        if self.is_alone or (not is_silent and not self._has_told_silence):
            return
        text = Sights(ranks=sights if is_silent else []).model_dump_json()
        self._ask(lambda store: store.set(f"{round_number}/sights/{self._node}", text))
        self._has_told_silence = is_silent

    def sights_of_others(self, round_number: int) -> list[Sight] | None:
        """What all other launchers see; None: one of them sees its ranks at work."""
        found: list[Sight] = []
        for node in self._others():
            told = self._read(f"{round_number}/sights/{node}", Sights)
            if told is None or not told.ranks:
                return None
            found += told.ranks
        return found

    def tell_end(self, round_number: int, end: RoundEnd) -> None:
        """How the round ended here."""
        if not self.is_alone:
            text = end.model_dump_json()
            self._ask(lambda store: store.set(f"{round_number}/end/{self._node}", text))

    def ends_of_others(self, round_number: int, gives_up: Callable[[], bool]) -> dict[int, RoundEnd | None]:
        """How it ended for the others; None for those who do not say so in time."""
        ends: dict[int, RoundEnd | None] = dict.fromkeys(self._others())
        deadline = time.monotonic() + COME_BACK_SECONDS
        while (missing := [node for node, end in ends.items() if end is None]) and not gives_up():
            for node in missing:
                ends[node] = end = self._read(f"{round_number}/end/{node}", RoundEnd)
                if end is not None and end.leaves:
                    return ends
            if time.monotonic() > deadline or self.store is None:
                break
            time.sleep(POLL_SECONDS)
        return ends

    def tell_verdict(self, round_number: int, verdict: Verdict, gives_up: Callable[[], bool]) -> None:
        """What all do next; returns once all who are there have heard it, for the store ends with replica 0."""
        if self.is_alone:
            return
        text = verdict.model_dump_json()
        self._ask(lambda store: store.set(f"{round_number}/verdict", text))
        deadline = time.monotonic() + ANSWER_SECONDS
        while not gives_up() and time.monotonic() < deadline:
            if self._ask(lambda store: store.add(f"{round_number}/heard", 0)) in (None, self._num_nodes - 1):
                return
            time.sleep(POLL_SECONDS)

    def wait_for_verdict(self, round_number: int, gives_up: Callable[[], bool]) -> Verdict | None:
        """What replica 0 has decided; None if it does not say so in time."""
        deadline = time.monotonic() + COME_BACK_SECONDS + ANSWER_SECONDS
        while self.store is not None and not gives_up() and time.monotonic() < deadline:
            if (verdict := self._read(f"{round_number}/verdict", Verdict)) is not None:
                self._ask(lambda store: store.add(f"{round_number}/heard", 1))
                return verdict
            time.sleep(POLL_SECONDS)
        return None

    def _others(self) -> Iterable[int]:
        return (node for node in range(self._num_nodes) if node != self._node)

    def _read(self, key: str, model: type[Told]) -> Told | None:
        return self._ask(lambda store: model.model_validate_json(store.get(key)) if store.check([key]) else None)

    def _ask(self, question: Callable[[Store], Answer]) -> Answer | None:
        store = self.store
        if store is None:
            return None
        answers: list[Answer] = []

        def ask() -> None:
            try:
                answers.append(question(store))
            except Exception as error:  # noqa: BLE001 - torch raises what it likes; the answer is that there is none
                problems.append(error)

        problems: list[Exception] = []
        thread = threading.Thread(target=ask, name="store", daemon=True)
        thread.start()
        thread.join(ANSWER_SECONDS)
        if not answers:
            self.store = None
            why = str(problems[0]).partition("\n")[0] if problems else f"no answer within {ANSWER_SECONDS:g} s"
            print(f"costopt: replica 0's store is out of reach: {why}", file=sys.stderr, flush=True)
            return None
        return answers[0]
