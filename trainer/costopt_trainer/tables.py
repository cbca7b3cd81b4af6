"""Tables from the manifest's word to what it names. What a word names is imported only when it is asked for.

row     a table and a word -> the class or function
"""

import importlib
from collections.abc import Mapping
from typing import Any


def row(table: Mapping[str, str], word: str) -> Any:
    """What stands behind `word`: the table has an import string such as "package.module:Name".

    Raises KeyError for a word that the table does not have.
    """
    module, _, name = table[word].partition(":")
    return getattr(importlib.import_module(module), name)
