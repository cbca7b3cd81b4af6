"""Texts beside each other: what one trains on is compared with what the others hold out, too.

beside_each_other    texts of a mixture -> the same, whose transforms that compare documents know of the others
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from costopt_trainer.data.documents import Document
from costopt_trainer.data.transformed import Text
from costopt_trainer.data.transforms.pipeline import Pipeline
from costopt_trainer.data.transforms.table import Comparison, Transform


def beside_each_other(texts: Sequence[Text]) -> list[Text]:
    """The texts in their order. Of a text that is one document, no document is held out whole, and none is compared."""
    return [_beside(text, [other for other in texts if other is not text]) for text in texts]


def _beside(text: Text, others: Sequence[Text]) -> Text:
    known = [[other.content.digest, other.percent] for other in others if other.is_held_out is not None]
    if not known:
        return text
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def aware(place: int, transform: Transform) -> Transform:
        if not isinstance(transform, Comparison):
            return transform
        return transform.beside(lambda: _held_out(others, place), digest)

    return replace(text, transforms=[aware(place, transform) for place, transform in enumerate(text.transforms)])


def _held_out(texts: Sequence[Text], upto: int) -> Iterator[Document]:
    """What they hold out, after their first `upto` transforms."""
    for text in texts:
        is_held_out = text.is_held_out
        if is_held_out is None:
            continue
        pipeline = Pipeline(text.source.documents, text.transforms[:upto], is_held_out)
        yield from (document for document in pipeline.documents() if is_held_out(document.name))
