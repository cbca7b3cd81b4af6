"""Whether ranks can share out a model of the Hugging Face library, as far as its config.json tells, before any starts.

    refuse_uneven_split    a degree that does not divide the heads

The whole plan of an architecture is known to the library alone: the ranks ask it. Nothing is imported of it here.
"""

import math
from pathlib import Path

from costopt.hostile import parse_json, read_file
from costopt.schema.recipe import Recipe
from costopt_trainer.errors import NotRetryable

_MAX_BYTES = 2**22
_HEADS = ("num_attention_heads", "num_key_value_heads")


def refuse_uneven_split(recipe: Recipe, num_ranks: int) -> None:
    """Raise NotRetryable if `parallelism.tensor` does not divide what config.json says of heads; the degrees that are
    said to fit divide the ranks as well.

    What cannot be read is left to the ranks, who say what is wrong with it: a folder of theirs, a model of the hub.
    """
    model, tensor = recipe.model.hugging_face, recipe.parallelism.tensor
    place = model and (model.path or model.config)
    if not place or tensor == 1:
        return
    path = Path(place)
    try:
        file = (path / "config.json" if path.is_dir() else path).resolve()
        plain = parse_json(read_file(file, max_bytes=_MAX_BYTES), large_integers=True)
    except (OSError, ValueError):
        return
    plain = plain if isinstance(plain, dict) else {}
    text = plain.get("text_config")
    told = text if isinstance(text, dict) else plain
    numbers = {name: told[name] for name in _HEADS if type(told.get(name)) is int and told[name] > 0}
    uneven = [f"{name} {number}" for name, number in numbers.items() if number % tensor != 0]
    if uneven:
        common = math.gcd(num_ranks, *numbers.values())
        fitting = ", ".join(str(degree) for degree in range(1, min(common, 1024) + 1) if common % degree == 0)
        raise NotRetryable(
            "InvalidSettings",
            f"recipe.parallelism.tensor must divide {', '.join(uneven)} of {place}, and {tensor} does not: degrees "
            f"that fit {num_ranks} ranks are {fitting}",
        )
