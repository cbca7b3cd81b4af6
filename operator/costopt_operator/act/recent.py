"""A bounded set of recently added texts."""


class Recent:
    """The last `kept` texts that were added; membership is checked thousands of times."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._texts: dict[str, None] = {}

    def __contains__(self, text: str) -> bool:
        return text in self._texts

    def note(self, text: str) -> None:
        """Add it as the latest; if there are too many, the earliest is dropped."""
        self._texts.pop(text, None)
        self._texts[text] = None
        if len(self._texts) > self._kept:
            del self._texts[next(iter(self._texts))]
