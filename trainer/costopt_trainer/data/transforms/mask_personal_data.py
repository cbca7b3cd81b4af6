"""Addresses and numbers of people become words such as [email]; what is found, `personal_data.py` says."""

from typing import Any

from costopt.schema.transforms import MaskPersonalData as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.transforms.blocks import Changer
from costopt_trainer.data.transforms.personal_data import ALL_KINDS, masked

VERSION = 1
"""Of the patterns: raise it if others are found."""


class MaskPersonalData(Changer):
    """Masks personal data. Of a line that is longer than a block, what stands at a border of two may be missed."""

    def __init__(self, settings: Transform) -> None:
        kinds = (settings.mask_personal_data or Settings()).kinds
        self._kinds = tuple(kind for kind in ALL_KINDS if kinds is None or kind in kinds)

    def fingerprint(self) -> dict[str, Any]:
        """What is looked for, and how."""
        return {"type": "MaskPersonalData", "version": VERSION, "kinds": sorted(self._kinds)}

    def change(self, block: str) -> str:
        """The block, masked."""
        return masked(block, self._kinds)
