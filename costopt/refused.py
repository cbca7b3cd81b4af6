"""What a user must mend, in one sentence."""


class Refused(Exception):
    """The command cannot go on; the text is one sentence that says what would be right."""
