"""Documents through all transforms of a recipe, counted.

Pipeline       the documents as they are after all transforms, as often as needed; judged once
held_out_from  which documents are held out, where that is not known beforehand

A transform that drops documents is asked once for each of them; from then on its answers are remembered, by name. So
the text may be read many times, and memory is bounded by the number of documents, not by their size.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, pairwise

from costopt.schema.data_report import MOST_EXAMPLES, MOST_REASONS, OTHER_REASONS, Example, TransformReport
from costopt_trainer.data.documents import Content, Document, Tally
from costopt_trainer.data.transforms.blocks import beginning
from costopt_trainer.data.transforms.examples import changed_example, dropped_example
from costopt_trainer.data.transforms.table import Comparison, Judge, Transform, Verdict, drops_documents

_EXAMPLES_OF_ONE_REASON = 2


class Pipeline:
    """Documents, and the transforms that they go through in order."""

    def __init__(
        self,
        documents: Callable[[], Iterator[Document]],
        transforms: Sequence[Transform],
        is_held_out: Callable[[str], bool] = lambda _name: False,
    ) -> None:
        """`documents` gives the same at every call; `is_held_out` tells by name which are for evaluation."""
        self._source, self._transforms, self._is_held_out = documents, transforms, is_held_out
        self._reasons: list[dict[str, str | None]] = [{} for _ in transforms]
        """Of each transform: why it drops a document, by name; None: it does not."""
        self._some: list[dict[str, Verdict]] = [{} for _ in transforms]
        """The first few that are dropped, for examples."""

    def judge(self) -> None:
        """Have every transform that drops documents decide on each of them."""
        for number, transform in enumerate(self._transforms):
            if isinstance(transform, Comparison):
                before = partial(self.documents, upto=number)
                for name, verdict in transform.verdicts(before, self._is_held_out):
                    self._remember(number, name, verdict)
        if any(map(drops_documents, self._transforms)):
            for _ in self.documents():
                pass

    def documents(self, tallies: Sequence[Tally] = (), upto: int | None = None) -> Iterator[Document]:
        """The documents after the first `upto` transforms, all by default.

        `tallies`, one more than transforms, count before each and after the last; then call `judge` first.
        """
        documents = self._source()
        for number, transform in enumerate(self._transforms[:upto]):
            if tallies:
                documents = tallies[number].through(documents)
            if drops_documents(transform):
                documents = self._kept(number, documents, count=bool(tallies))
            else:
                documents = transform.documents(documents)
        return tallies[-1].through(documents) if tallies else documents

    def _kept(self, number: int, documents: Iterable[Document], *, count: bool) -> Iterator[Document]:
        transform, reasons = self._transforms[number], self._reasons[number]
        for document in documents:
            if document.name not in reasons and isinstance(transform, Judge):
                self._remember(number, document.name, transform.verdict(document))
            if reasons.get(document.name) is None:  # one that came since is found when all is read again
                yield document
            elif count:
                for _ in document.pieces():
                    pass  # whoever counts what comes before counts as it is read

    def _remember(self, number: int, name: str, verdict: Verdict | None) -> None:
        self._reasons[number][name] = None if verdict is None else verdict.reason
        if verdict is not None and len(self._some[number]) < MOST_EXAMPLES:
            alike = [each for each in self._some[number].values() if each.reason == verdict.reason]
            if len(alike) < _EXAMPLES_OF_ONE_REASON:
                self._some[number][name] = verdict

    def reports(self, words: Sequence[str], tallies: Sequence[Tally]) -> tuple[TransformReport, ...]:
        """What each transform did, by what was counted; `words` are their types."""
        return tuple(
            self._report(number, word, before, after)
            for number, (word, (before, after)) in enumerate(zip(words, pairwise(tallies), strict=True))
        )

    def _report(self, number: int, word: str, before: Tally, after: Tally) -> TransformReport:
        changed = [name for name, own in after.sums.items() if before.sums.get(name, own) != own]
        reasons = Counter(reason for reason in self._reasons[number].values() if reason is not None)
        dropped = len(before.sums.keys() - after.sums.keys())
        return TransformReport(
            type=word,
            documents=before.num_documents,
            changed=len(changed),
            dropped=dropped,
            bytes_before=before.num_bytes,
            bytes_after=after.num_bytes,
            reasons=_most_common(reasons),
            examples=self._examples(number, set(changed[:MOST_EXAMPLES])),
        )

    def _examples(self, number: int, changed: set[str]) -> list[Example]:
        found: list[Example] = []
        for name, text in _beginnings(self.documents(upto=number), self._some[number].keys()):
            found.append(dropped_example(name, text, self._some[number][name]))
        befores = _beginnings(self.documents(upto=number), changed)
        afters = _beginnings(self.documents(upto=number + 1), changed)
        for (name, before), (_, after) in zip(befores, afters, strict=False):
            example = changed_example(name, before, after)
            found += [example] if example else []
        return found[:MOST_EXAMPLES]


def _most_common(reasons: Counter[str]) -> dict[str, int]:
    """The most frequent first; as many as a report has room for."""
    found = dict(reasons.most_common(MOST_REASONS - 1))
    others = reasons.total() - sum(found.values())
    return {**found, OTHER_REASONS: others} if others else found


def _beginnings(documents: Iterable[Document], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and beginning of the documents of these names; no other is read, and none after the last of them."""
    wanted = set(names)
    asked_for = (document for document in documents if document.name in wanted)
    for document in islice(asked_for, len(wanted)):
        yield document.name, beginning(document)


def held_out_from(content: Content, percent: int) -> frozenset[str]:
    """Names of the last documents of a text, about `percent` of its bytes: whole ones, at least one, and never all.

    Empty for a text of one document, which cannot be held out whole.
    """
    names = content.names
    if len(names) < 2:
        return frozenset()
    border = content.num_bytes - content.num_bytes * percent // 100
    starts, position = [], 0
    for size in content.sizes:
        starts.append(position)
        position += size + 1  # and the separator
    first = min(range(1, len(names)), key=lambda number: abs(starts[number] - border))
    return frozenset(names[first:])
