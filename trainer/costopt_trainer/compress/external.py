"""The External step: a function of another package that is installed where variants are made.

The package names it in its pyproject.toml, under [project.entry-points."costopt.compression_steps"]:

    halve = "my_package.steps:halve"

    def halve(model, settings, run) -> str: ...

`model` is changed in place, `settings` are those of the manifest, text by name, and `run` is a StepRun. What it returns
goes to the log. A step that trains does so by `fitting.fit`, or sees to its ranks, stops and checkpoints itself.
"""

from collections.abc import Callable
from decimal import Decimal
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from costopt.schema.compression import External
from costopt.schema.replica import EXIT_PREEMPTED, PhaseName
from costopt_trainer.compress.step import StepRun
from costopt_trainer.errors import NotRetryable, Retryable, first_line, memory_reason
from costopt_trainer.models.family import LayeredModel

GROUP = "costopt.compression_steps"
"""Of the entry points that name steps."""


class ExternalStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "RunningStep"
    trains = True
    """If its settings say so."""
    quality_drop_percent = Decimal(5)

    def changes_shapes(self, _settings: External) -> bool:
        return True  # nobody knows

    def wants_speed(self, _settings: External) -> bool:
        return False

    def wants_compile(self, _settings: External) -> bool:
        return False

    def apply(self, model: LayeredModel, settings: External, run: StepRun) -> str:
        function = _function(settings.name)
        try:
            said = function(model, dict(settings.settings), run)
        except (NotRetryable, Retryable):
            raise  # it speaks our language
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code == EXIT_PREEMPTED:
                raise  # it was asked to end, and has saved its work
            if memory_reason([kind.__name__ for kind in type(error).__mro__], str(error)) is not None:
                raise
            told = f"{type(error).__name__}: {first_line(error)}".rstrip(": ")
            raise _wrong(settings.name, f"must change the model, but raises {told}") from error
        line = f": {said.splitlines()[0]}" if isinstance(said, str) and said.strip() else ""
        return f"External {settings.name}{line}"


def find(name: str) -> EntryPoint:
    """The entry point of that name; nothing of it is imported. Raises NotRetryable("InvalidSettings") without one."""
    found = entry_points(group=GROUP)
    if name not in found.names:
        there = ", ".join(sorted(found.names)[:10]) or "none"
        raise _wrong(
            name,
            "must be a step of a package that is installed where variants are made (an entry point of the group "
            f"{GROUP}); there: {there}",
        )
    return found[name]


def _function(name: str) -> Callable[..., Any]:
    entry = find(name)
    try:
        function = entry.load()
    except (Exception, SystemExit) as error:
        # Whatever their code does while it is imported.
        told = f"{type(error).__name__}: {first_line(error)}".rstrip(": ")
        raise _wrong(name, f"must be importable, but importing {entry.value} raises {told}") from error
    if not callable(function):
        raise _wrong(name, f"must name a function, but {entry.value} is a {type(function).__name__}")
    return function


def _wrong(name: str, what: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", f"compress[].steps[].external.name: {name} {what}")


STEP = ExternalStep()
