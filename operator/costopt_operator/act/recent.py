"""What was noted lately."""


class Recent:
    """The last so many texts that were noted; whether one is among them is asked thousands of times."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._texts: dict[str, None] = {}

    def __contains__(self, text: str) -> bool:
        return text in self._texts

    def note(self, text: str) -> None:
        """It is the latest; the earliest of too many is forgotten."""
        self._texts.pop(text, None)
        self._texts[text] = None
        if len(self._texts) > self._kept:
            del self._texts[next(iter(self._texts))]
