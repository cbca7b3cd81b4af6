"""Plain data with its defaults, as the API server's rules see it: a default is written once, in the model.

with_defaults     what was left out, filled in at every depth
"""

from collections.abc import Mapping
from typing import Any

from costopt.schema.base import Strict, field_key, nested_model


def with_defaults(model: type[Strict], data: Any) -> Any:
    """`data` of `model`, or a list of such, with the default of each field that was left out. A field whose default is
    None stays out, and what is malformed stays as it is."""
    if isinstance(data, list):
        return [with_defaults(model, item) for item in data]
    if not isinstance(data, Mapping):
        return data
    filled = dict(data)
    for name, field in model.model_fields.items():
        key, nested = field_key(name, field), nested_model(field.annotation)
        if key in filled:
            filled[key] = filled[key] if nested is None else with_defaults(nested, filled[key])
        elif not field.is_required() and (default := field.get_default(call_default_factory=True)) is not None:
            filled[key] = default.to_plain() if isinstance(default, Strict) else default
    return filled
