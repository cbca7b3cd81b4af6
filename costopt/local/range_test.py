"""A learning-rate range test on this machine: one process of the trainer, which saves nothing but caches."""

import subprocess
import tempfile
from pathlib import Path

from costopt.files import mark_storage
from costopt.hostile import Hostile, read_file
from costopt.isolation import own_program, passed_on
from costopt.local.devices import Devices
from costopt.names import ENV_STORAGE_DIR, RESERVED_ENVIRONMENT, TRAIN_STAGE
from costopt.refused import Refused
from costopt.render.processes import processes
from costopt.render.settings import SETTINGS_FILE
from costopt.schema.job import CostOptJob
from costopt.schema.range_report import RangeRefusal, RangeReport, RangeRequest

MODULE = "costopt_trainer.lr_find"
MAX_REPORT_BYTES = 2**23


def find_range(job: CostOptJob, request: RangeRequest, storage: Path | None, devices: Devices) -> RangeReport:
    """Make the test. `storage`: the job's folder, of which the cache is used and written; None: nothing is kept.

    Raises Refused with the sentence of the trainer. What the process prints goes to standard error.
    """
    with tempfile.TemporaryDirectory(prefix="costopt-lr-find-") as name:
        folder = Path(name)
        mark_storage(folder)
        request_file, report_file = folder / "request.json", folder / "report.json"
        request_file.write_text(request.model_dump_json(by_alias=True))
        program = own_program(MODULE, str(request_file), str(report_file))
        drawn = processes(
            job,
            TRAIN_STAGE,
            0,
            run_dir=folder,
            working_dir=Path(),
            launcher=program,
            rendezvous_port="0",
            devices=devices.ids,
        )[0]
        Path(drawn.folder).mkdir(parents=True)
        (Path(drawn.folder) / SETTINGS_FILE).write_text(drawn.settings)
        inherited = {key: value for key, value in passed_on().items() if key not in RESERVED_ENVIRONMENT}
        environment = inherited | drawn.environment
        environment[ENV_STORAGE_DIR] = str(storage or folder)
        # In a group of its own, so that Ctrl-C ends it with this process and without a traceback.
        ended = subprocess.run(
            drawn.argv, env=environment, stdin=subprocess.DEVNULL, stdout=2, check=False, start_new_session=True
        )
        return _read(report_file, ended.returncode)


def _read(file: Path, code: int) -> RangeReport:
    try:
        content = read_file(file, max_bytes=MAX_REPORT_BYTES)
    except (OSError, Hostile):
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise Refused(
            f"the process that tries the rates ended with {how} and no report; its last lines say why"
        ) from None
    try:
        return RangeReport.model_validate_json(content)
    except ValueError:
        raise Refused(RangeRefusal.model_validate_json(content).message) from None
