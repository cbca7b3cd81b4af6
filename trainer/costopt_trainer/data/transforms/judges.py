"""What filters have in common: they judge each document for itself, and change none."""

from collections.abc import Iterable, Iterator

from costopt_trainer.data.documents import Document
from costopt_trainer.data.transforms.table import Verdict


class EachForItself:
    """A transform that drops each document against which it has a reason."""

    def documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that stay."""
        return (document for document in documents if self.verdict(document) is None)

    def verdict(self, document: Document) -> Verdict | None:
        """Why the document is dropped; None: it stays."""
        raise NotImplementedError
