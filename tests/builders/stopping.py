"""Trainings of this process that are told to end at a chosen moment."""

import pytest

from costopt_trainer.agreement import Question
from costopt_trainer.training import loop as train
from costopt_trainer.training.training import Training


def stop_at_micro_batch(monkeypatch: pytest.MonkeyPatch, kind: str, number: int) -> None:
    """SIGTERM comes at this question, counted from 1, of an evaluation or of steps."""
    asked = Question.all_end
    count = [0]

    def all_end(self: Question) -> bool:
        owner = {"evaluation": "is_evaluation_to_end", "step": "is_step_to_end"}[kind]
        if getattr(current[-1], owner) is self:
            count[0] += 1
            if count[0] == number:
                current[-1].stop.asked = True
        return asked(self)

    current: list[Training] = []
    begin = train.run_steps

    def remembered(training: Training) -> None:
        current.append(training)
        begin(training)

    monkeypatch.setattr(Question, "all_end", all_end)
    monkeypatch.setattr(train, "run_steps", remembered)
