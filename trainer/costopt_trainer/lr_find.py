"""The process of `costopt lr-find`: `costopt_trainer.lr_find REQUEST REPORT`, in a replica's environment.

REQUEST is a file with a RangeRequest; REPORT becomes one with a RangeReport, or with the sentence of a RangeRefusal.
"""

import os
import sys
from pathlib import Path

from costopt import names
from costopt.files import write_atomically
from costopt.hostile import MAX_JSON_BYTES, read_file
from costopt.schema.base import Strict
from costopt.schema.range_report import RangeRefusal, RangeRequest
from costopt.schema.replica import EXIT_NOT_RETRYABLE
from costopt_trainer.errors import NotRetryable, Retryable
from costopt_trainer.replica_settings import read_settings
from costopt_trainer.shutdown import die_with_parent


def main(arguments: list[str]) -> int:
    """Make the test; returns the exit code."""
    request_file, report_file = map(Path, arguments)
    try:
        report: Strict = _report(RangeRequest.model_validate_json(read_file(request_file, max_bytes=MAX_JSON_BYTES)))
        code = 0
    except (NotRetryable, Retryable) as error:
        report, code = RangeRefusal(message=str(error)[:4096]), EXIT_NOT_RETRYABLE
    write_atomically(report_file, report.model_dump_json(by_alias=True).encode(), durable=False)
    return code


def _report(request: RangeRequest) -> Strict:
    settings = read_settings(Path(os.environ[names.ENV_SETTINGS_FILE]))
    if settings.recipe is None:
        raise NotRetryable("InvalidSettings", "train.recipe must be set: the rate of your own program is its own")
    # torch comes late, so that settings that are wrong are told at once
    from costopt_trainer.models.shape import ModelShape  # noqa: PLC0415
    from costopt_trainer.training.process_group import join_process_group  # noqa: PLC0415
    from costopt_trainer.training.range_test import sweep  # noqa: PLC0415
    from costopt_trainer.training.recipe_data import data_of, in_mixture, with_steps  # noqa: PLC0415

    storage = Path(os.environ[names.ENV_STORAGE_DIR])
    data = data_of(settings.recipe, storage)
    recipe = with_steps(settings.recipe, data)
    data = in_mixture(recipe, data)
    shape = ModelShape.for_data(recipe.model, data)
    gang = join_process_group()
    return sweep(recipe, shape, data, gang, request, cache_dir=storage / names.CACHE_DIR)


if __name__ == "__main__":
    die_with_parent(os.getppid())
    sys.exit(main(sys.argv[1:]))
