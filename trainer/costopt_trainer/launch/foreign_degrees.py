"""Whether ranks can share out a model of the Hugging Face library, as far as its config.json tells, before any starts.

    refuse_uneven_split    a degree that does not divide the heads

The whole plan of an architecture is known to the library alone: the ranks ask it. Nothing is imported of it here.
"""

import math
from pathlib import Path

from costopt.schema.recipe import Recipe
from costopt_trainer.errors import NotRetryable
from costopt_trainer.foreign_config import CONFIG_FILE, divisors, heads_of, read_config


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
        config = read_config(path / CONFIG_FILE if path.is_dir() else path)
    except (OSError, ValueError):
        return
    told = heads_of(config if isinstance(config, dict) else {})
    numbers = {name: number for name, number in told.items() if type(number) is int and number > 0}
    uneven = [f"{name} {number}" for name, number in numbers.items() if number % tensor != 0]
    if uneven:
        fitting = divisors(math.gcd(num_ranks, *numbers.values()))
        raise NotRetryable(
            "InvalidSettings",
            f"recipe.parallelism.tensor must divide {', '.join(uneven)} of {place}, and {tensor} does not: degrees "
            f"that fit {num_ranks} ranks are {fitting}",
        )
