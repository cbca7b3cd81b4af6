"""What the config.json of a model of the Hugging Face library says, as the launcher and the ranks read it alike.

read_config    file -> plain data
heads_of       what it says of heads
divisors       degrees that divide a number, in words

Nothing is imported of the library: it takes seconds, and the launcher does without.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from costopt.hostile import parse_json, read_file

CONFIG_FILE = "config.json"
HEADS = ("num_attention_heads", "num_key_value_heads")
_MAX_BYTES = 2**27


def read_config(file: Path) -> Any:
    """Plain data. Raises OSError if the file cannot be read, ValueError if it is not JSON, or too large."""
    return parse_json(read_file(file.resolve(), max_bytes=_MAX_BYTES), large_integers=True)


def heads_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """By name, what is said of heads: of a model of texts and more, what is said of its part for texts."""
    text = config.get("text_config")
    told = text if isinstance(text, dict) else config
    return {name: told[name] for name in HEADS if told.get(name) is not None}


def divisors(number: int) -> str:
    """All of them, from 1 on, with commas."""
    return ", ".join(str(degree) for degree in range(1, number + 1) if number % degree == 0)
