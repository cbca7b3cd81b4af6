"""What a shell hands to a replica, and what the replica hands back.

`ReplicaSettings` is the ConfigMap's (or the run folder's) `settings.json`. A replica answers in two files whose paths
are in its environment: `Progress` is overwritten as it goes, `TerminationMessage` is written once, at the end. In a
pod the second is /dev/termination-log, hence its limit of 4,096 bytes. Rank 0 prints each `Progress` as a line of JSON
too, since nobody outside a pod can read its files: `progress_in_log` finds it again. Where no step ends for a while, a
line with a `Phase` says what goes on instead: `phase_in_log`.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from costopt.schema.auto_batch import AutoBatchReport
from costopt.schema.base import Code, Count, Figure, LongText, Name, ShortText, Strict
from costopt.schema.compression import Variant
from costopt.schema.early_stopping import EarlyStoppingReport
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.given_model import GivenModel
from costopt.schema.job import Argument
from costopt.schema.recipe import Recipe
from costopt.schema.variant_report import VariantStatus

Report = TypeVar("Report", bound=Strict)

EXIT_DONE = 0
EXIT_NOT_RETRYABLE = 78
"""Settings, data or a state of training that no restart can mend (EX_CONFIG of sysexits.h)."""
EXIT_PREEMPTED = 143
"""Ended by SIGTERM with a checkpoint written (128 + 15)."""

TERMINATION_MESSAGE_LIMIT_BYTES = 4096


FailureReason = Literal[
    "InvalidSettings",
    "InvalidData",
    "DataUnreachable",
    "LossNotFinite",
    "CheckpointNotWritable",
    "CheckpointUnreadable",
    "RendezvousFailed",
    "ProcessFailed",
    "ProcessKilled",
    "OutOfMemory",
    "DeviceOutOfMemory",
    "StorageLimitExceeded",
    "CommandNotFound",
    "CannotStart",
    "StartFailed",
    "NotStarted",
    "Stalled",
    "StartupTimedOut",
    "ArtifactMismatch",
    "VariantRejected",
    "Preempted",
    "Evicted",
    "NodeShutdown",
    "NodeLost",
    "Rejected",
    "PodDeadlineExceeded",
    "Lost",
]
"""Why an attempt ended. What each counts as and what would help stands in one table, costopt/plan/causes.py."""


class ReplicaSettings(Strict):
    """Everything a replica needs to know that is the same for all replicas of the attempt."""

    job_name: Annotated[str, StringConstraints(max_length=253)]
    """Name of the job."""
    stage: Name
    """"train" or the variant's name."""
    num_nodes: Annotated[int, Field(ge=1, le=4096)]
    """Replicas of the attempt."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)]
    """Ranks per replica."""
    recipe: Recipe | None = None
    """Settings of the built-in trainer; also read by variants, to rebuild model and data."""
    command: list[Argument] | None = None
    """The user's program, instead of a recipe."""
    variant: Variant | None = None
    """The variant to make; None in the training stage."""
    variants_to_come: Annotated[list[Variant], Field(max_length=16)] | None = None
    """In the training stage: variants whose steps use what is installed or lies where they are made. A training that
    they could not follow does not begin. None: there are none."""
    model: GivenModel | None = None
    """The model to make the variant of; None: what the train stage has left in the storage."""
    evaluation: CommandEvaluation | None = None
    """What a variant of a model is measured on that no recipe has trained."""
    in_place_restarts: Count = 0
    """How often in a row, without a checkpoint in between, failed ranks are started anew by the same launchers."""
    hang_timeout_seconds: Count | None = None
    """After how long without any sign of work ranks that take steps hang; also for one that is stopped. None: 60, or
    ten times the longest step so far if that is more."""


class MeteredMilliseconds(Strict):
    """A replica's own account of where its time went, in whole milliseconds, so that sums are exact."""

    startup: Count = 0
    """From the launcher's start to the first step: imports, rendezvous, data, loading a checkpoint."""
    productive: Count = 0
    """In finished steps and evaluations whose result a checkpoint holds."""
    since_checkpoint: Count = 0
    """In finished steps that no checkpoint holds yet: lost if the attempt ends now."""
    data_wait: Count = 0
    """Time in which a step waited for samples."""
    checkpoint: Count = 0
    """Spent saving."""
    recovery: Count = 0
    """Start-up of ranks that were started anew in place."""
    lost: Count = 0
    """What ranks that failed had done since their last checkpoint, before they were started anew in place."""
    selecting: Count = 0
    """Spent choosing which samples are trained on, and in which order; a part of the start that is counted apart."""


class RestartCause(Strict):
    """Why ranks were started anew in place."""

    reason: FailureReason
    """Why."""
    message: LongText
    """Why, in words."""
    rank: Code | None = None
    """First failing rank, or the one that was behind. None: not known."""
    replica_index: Code | None = None
    """Its replica (completion index)."""


class EarlierRounds(Strict):
    """What a launcher tells the ranks it starts anew in place of those before them."""

    restarts: Count = 0
    """How often ranks were started anew in this attempt."""
    metered: MeteredMilliseconds = MeteredMilliseconds()
    """Where the time went until now."""
    cause: RestartCause | None = None
    """Why the last time."""


class Progress(Strict):
    """How far training is."""

    step: Count
    """Finished optimizer steps."""
    total_steps: Count
    """Steps in all."""
    samples_consumed: Count = 0
    """Samples trained on so far, over all ranks: the data position."""
    loss: Figure | None = None
    """Training loss of the last step, nats per token (or per sample, for images)."""
    validation_loss: Figure | None = None
    """Latest loss on the held-out split, nats per token (or per sample, for images); once a model was saved that is not
    of the last step (earlyStopping.modelStep), the loss of that. So it is with the results."""
    learning_rate: Figure | None = None
    """Learning rate of the last step."""
    tokens_per_second: Count | None = None
    """Tokens trained on per second over all ranks, since the last report; None for images."""
    samples_per_second: Count | None = None
    """Samples (images) trained on per second over all ranks, since the last report; None for text."""
    last_checkpoint_step: Count | None = None
    """Step of the newest complete checkpoint."""
    resumed_from_step: Count | None = None
    """Step of the checkpoint from which this attempt went on. None: it began at the beginning."""
    checkpoints_passed_over: LongText | None = None
    """Which newer checkpoints were damaged, and how. None: none were."""
    metered: MeteredMilliseconds | None = None
    """Where this attempt's time went so far, in milliseconds."""
    in_place_restarts: Count | None = None
    """How often the ranks of this attempt were started anew in place. None: never."""
    restarted_for: RestartCause | None = None
    """Why they were the last time. None: they were not."""
    early_stopping: EarlyStoppingReport | None = None
    """How far training is from ending because it no longer improves. None: it does not end for that, or no evaluation
    was made."""
    auto_batch: AutoBatchReport | None = None
    """Which global batch was chosen by measuring. None: none was yet."""
    bad_samples: ShortText | None = None
    """How many samples are bad and were left out (onBadSample: Skip), and the first of them. None: none were."""
    data_saved: ShortText | None = None
    """Documents that cleaning dropped, and steps of an epoch that selection saves. None: neither."""
    results: dict[ShortText, Figure] = Field(default_factory=dict, max_length=64)
    """Named results of the last evaluation, such as validationLossNatsPerByte and unigramEntropyNatsPerByte."""


PhaseName = Literal[
    "Importing",
    "MeetingRanks",
    "RunningCommand",
    "ReadingData",
    "ReachingData",
    "LearningTokenizer",
    "Tokenizing",
    "Selecting",
    "BuildingModel",
    "LoadingCheckpoint",
    "LoadingModel",
    "Rehearsing",
    "Evaluating",
    "SavingCheckpoint",
    "SavingModel",
    "Quantizing",
    "Pruning",
    "Factorizing",
    "SharingWeights",
    "RunningStep",
    "FineTuning",
    "Distilling",
    "Compiling",
    "Measuring",
    "Verifying",
]

PHASE_WORDS: Mapping[PhaseName, str] = {
    "Importing": "importing libraries",
    "MeetingRanks": "meeting the other ranks",
    "RunningCommand": "running its command",
    "ReadingData": "reading the data",
    "ReachingData": "trying again to reach the data",
    "LearningTokenizer": "learning the tokenizer",
    "Tokenizing": "tokenizing",
    "Selecting": "selecting samples",
    "BuildingModel": "building the model",
    "LoadingCheckpoint": "loading a checkpoint",
    "LoadingModel": "loading the model",
    "Rehearsing": "rehearsing a step",
    "Evaluating": "evaluating",
    "SavingCheckpoint": "saving a checkpoint",
    "SavingModel": "saving the model",
    "Quantizing": "quantizing",
    "Pruning": "pruning",
    "Factorizing": "finding factors",
    "SharingWeights": "sharing weights",
    "RunningStep": "running a step of another package",
    "FineTuning": "fine-tuning",
    "Distilling": "distilling",
    "Compiling": "compiling",
    "Measuring": "measuring",
    "Verifying": "verifying what was saved",
}
"""How people are told of a phase."""


STARTUP_PHASES: frozenset[PhaseName] = frozenset(
    {
        "Importing",
        "MeetingRanks",
        "ReadingData",
        "ReachingData",
        "LearningTokenizer",
        "Tokenizing",
        "Selecting",
        "BuildingModel",
        "LoadingCheckpoint",
        "Rehearsing",
    }
)
"""Those of a training before its first step; others come later too."""


class Phase(Strict):
    """What a replica is at while no step ends."""

    phase: PhaseName
    """What it does."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """How much of it is done. None: unknown, or it is one piece."""
    step: Count | None = None
    """Of a compression step that trains: optimizer steps that it has taken."""
    total_steps: Count | None = None
    """All that it takes."""

    @property
    def words(self) -> str:
        """For people: "tokenizing 40 %", "fine-tuning, step 40 of 100"."""
        if self.step is not None and self.total_steps is not None:
            return f"{PHASE_WORDS[self.phase]}, step {self.step} of {self.total_steps}"
        return PHASE_WORDS[self.phase] + ("" if self.percent is None else f" {self.percent} %")


_NO_LOG = re.compile(r"(unable to retrieve container logs for|failed to try resolving symlinks in path) ")


def says_no_log(line: str) -> bool:
    """Whether a line is the kubelet's excuse instead of a log; it comes with the code of a success."""
    return _NO_LOG.match(line) is not None


_LOG_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9.]+(?:Z|[+-][0-9]{2}:[0-9]{2})(?= |$)")
"""With which a kubelet begins each line that ends in a line feed."""
_LINE_END = re.compile(r"\r\n|\n|\r")


def log_lines(text: str) -> list[str]:
    """The lines of a log. A line ends with a line feed, or (a progress bar's) with a carriage return, and with nothing
    else that Unicode calls a separator: those may stand in the midst of a report."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def time_in_log(line: str) -> datetime | None:
    """When the kubelet says that the line was written; None if it begins with no time, or with one that never is."""
    found = _LOG_TIMESTAMP.match(line)
    try:
        return datetime.fromisoformat(found[0]).astimezone(UTC) if found else None
    except (ValueError, OverflowError):
        return None


def progress_in_log(lines: Sequence[str]) -> Progress | None:
    """The newest progress among the `lines` of a replica's log, oldest first; None if there is none.

    A line is progress if all of it is the JSON of a `Progress`, behind the time with which a cluster's log may begin
    each line. Anything else is passed over: other JSON, lines of other ranks (they begin with "[rank 1] "), a line cut
    off at either end.
    """
    return next((report for line in reversed(lines) if (report := _report(line, Progress, '"step"'))), None)


def phase_in_log(lines: Sequence[str], before: Phase | None = None) -> Phase | None:
    """The phase that a replica is in after these `lines` of its log, oldest first; None: its steps go on, or unknown.

    Progress ends a phase. `before` is what was known before these lines; it stays if they tell neither.
    """
    for line in reversed(lines):
        if (phase := _report(line, Phase, '"phase"')) is not None:
            return phase
        if _report(line, Progress, '"step"') is not None:
            return None
    return before


def _report(line: str, model: type[Report], mark: str) -> Report | None:
    stamp = _LOG_TIMESTAMP.match(line)
    text = line[stamp.end() if stamp else 0 :].strip()
    if not (text.startswith("{") and text.endswith("}") and mark in text):
        return None
    try:
        return model.model_validate_json(text)
    except ValidationError:
        return None


class TerminationMessage(Strict):
    """Why and how a replica ended."""

    exit_code: Code
    """The replica's exit code: 0 done, 143 preempted with a checkpoint, 78 not worth a retry, else failure."""
    reason: FailureReason | None = None
    """Why it did not finish; None when it did."""
    message: LongText = ""
    """The first failing rank's exception, in one sentence where it is the user's to mend."""
    rank: Code | None = None
    """The first failing rank; None when no rank failed."""
    replica_index: Code | None = None
    """The replica (completion index) of that rank."""
    rank_exit_code: Code | None = None
    """That rank's own exit code; negative: the signal that killed it."""
    echo: bool = False
    """True when the failure looks like the effect of another rank's end (a lost connection)."""
    time: ShortText | None = None
    """When the first rank failed, RFC 3339, UTC."""
    log_tail: list[LongText] = Field(default_factory=list, max_length=40)
    """Last log lines of the failing rank."""
    progress: Progress | None = None
    """The last progress of this replica."""
    earlier_rounds: EarlierRounds | None = None
    """Of a program that tells no progress: what became of ranks that were started anew in place. None: none were."""
    variant: VariantStatus | None = None
    """The report on the variant that replica 0 of its stage has made; None unless it ended with exit code 0, or the
    variant is required and was rejected."""
