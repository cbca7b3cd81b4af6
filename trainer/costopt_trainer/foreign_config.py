"""What the config.json of a model of the Hugging Face library says, as the launcher and the ranks read it alike.

read_config    file -> plain data
heads_of       what it says of heads
SPLIT_NUMBERS  what ranks that split its matrices must divide; split_numbers: as far as a config.json says it

Nothing is imported of the library: it takes seconds, and the launcher does without.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from costopt.hostile import parse_json, read_file

CONFIG_FILE = "config.json"
HEADS = ("num_attention_heads", "num_key_value_heads")
SPLIT_NUMBERS = (*HEADS, "intermediate_size")
"""The library's names of what ranks that split the matrices of a model must each have a whole share of."""
_OTHER_NAMES = {"num_attention_heads": ("n_head",)}
"""What some architectures that the library can split call it in their config.json."""
_MAX_BYTES = 2**27


def read_config(file: Path) -> Any:
    """Plain data. Raises OSError if the file cannot be read, ValueError if it is not JSON, or too large."""
    return parse_json(read_file(file.resolve(), max_bytes=_MAX_BYTES), large_integers=True)


def heads_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """By name, what is said of heads: of a model of texts and more, what is said of its part for texts."""
    text = config.get("text_config")
    told = text if isinstance(text, dict) else config
    return {name: told[name] for name in HEADS if told.get(name) is not None}


def split_numbers(config: Mapping[str, Any]) -> dict[str, int]:
    """By name, what ranks that split the matrices must divide. What is told otherwise than as a number, such as one for
    each layer, is passed over."""
    text = config.get("text_config")
    told = text if isinstance(text, dict) else config
    numbers = {name: told.get(name) for each in SPLIT_NUMBERS for name in (each, *_OTHER_NAMES.get(each, ()))}
    return {name: number for name, number in numbers.items() if type(number) is int and number > 0}
