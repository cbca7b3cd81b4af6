"""Whether ranks can share out a model of the Hugging Face library, as far as its config.json tells, before any starts.

    refuse_uneven_split    a degree that does not divide the heads, or the width of an MLP

The whole plan of an architecture is known to the library alone: the ranks ask it. Nothing is imported of it here.
"""

from pathlib import Path

from costopt.schema.alternatives import advice, training
from costopt.schema.recipe import Recipe
from costopt_trainer.errors import NotRetryable
from costopt_trainer.foreign_config import CONFIG_FILE, read_config, split_numbers


def refuse_uneven_split(recipe: Recipe, *, num_nodes: int, processes_per_node: int) -> None:
    """Raise NotRetryable("InvalidSettings") if `parallelism.tensor` does not divide what config.json says of heads and
    widths; the sentence names values that do, and that obey the rules of the recipe.

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
    numbers = split_numbers(config if isinstance(config, dict) else {})
    uneven = [f"{name} {number}" for name, number in numbers.items() if number % tensor != 0]
    if uneven:
        instead = advice(
            training(recipe, num_nodes=num_nodes, processes_per_node=processes_per_node),
            ["tensor"],
            also=lambda train: all(
                number % train["recipe"]["parallelism"]["tensor"] == 0 for number in numbers.values()
            ),
        )
        raise NotRetryable(
            "InvalidSettings",
            f"recipe.parallelism.tensor must divide {', '.join(uneven)} of {place}, and {tensor} does not{instead}",
        )
