"""The process of `costopt try`, which is fresh, so that it shows what a file gives and nothing else.

standard input     a TrialRequest, as JSON
standard output    phases, one a line; last {"answer": TrialAnswer}, or {"refused": sentence} with exit code 78
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from costopt.hostile import MAX_JSON_BYTES
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, MASKED_TEXT, TEXT
from costopt.schema.replica import EXIT_DONE, EXIT_NOT_RETRYABLE
from costopt.schema.trial import TrialAnswer, TrialRequest
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import VOICE, phase
from costopt_trainer.shutdown import die_with_parent

MAX_REQUEST_BYTES = 2 * MAX_JSON_BYTES


def answer(request: TrialRequest) -> TrialAnswer:
    """What the artifact makes of the request's input. Raises NotRetryable with a sentence."""
    # They import torch, which takes seconds: a request that is wrong is told before.
    from costopt_trainer.trial import answering  # noqa: PLC0415
    from costopt_trainer.trial.inputs import image_of, row_of  # noqa: PLC0415
    from costopt_trainer.trial.opening import open_artifact  # noqa: PLC0415

    with phase("LoadingModel"):
        opened = open_artifact(Path(request.folder))
    with phase("Evaluating") as pieces:
        if opened.reads == TEXT:
            return answering.complete(
                opened,
                request.input,
                max_tokens=request.max_tokens,
                temperature=float(request.temperature),
                seed=request.seed,
                on_token=pieces.done,
            )
        if opened.reads == MASKED_TEXT:
            return answering.fill_masks(opened, request.input)
        if opened.reads == LABELLED_TEXT:
            return answering.classify_text(opened, request.input)
        given, shape = request.input, opened.shape
        return answering.classify(
            opened, image_of(Path(given), shape) if opened.reads == IMAGES else row_of(given, shape)
        )


def main() -> None:
    """Answer what standard input asks for."""
    die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the command's to tell of
    VOICE.speak_up(aloud=True)
    told: dict[str, Any]
    try:
        request = TrialRequest.model_validate_json(sys.stdin.buffer.read(MAX_REQUEST_BYTES))
        told, code = {"answer": answer(request).to_plain()}, EXIT_DONE
    except NotRetryable as error:
        told, code = {"refused": str(error)[:4096]}, EXIT_NOT_RETRYABLE
    VOICE.fall_silent()
    print(json.dumps(told), flush=True)
    os._exit(code)  # a thread that speaks for phases may be asleep


if __name__ == "__main__":
    main()
