"""Libraries of the extra `data`, imported when data asks for them.

library     the module of that name, or a sentence that says what to install
"""

import importlib
from typing import Any

from costopt_trainer.errors import NotRetryable


def library(module: str, name: str) -> Any:
    """The module. Raises NotRetryable("InvalidData") if it is not installed; `name` is what is to be read with it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        package = {"PIL": "pillow"}.get(package, package)
        raise NotRetryable(
            "InvalidData",
            f"{name} must be read with the package {package}, which is not installed: install costopt with its extra "
            "data (pip install 'costopt[data]')",
        ) from error
