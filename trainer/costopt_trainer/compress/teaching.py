"""What a student learns of a teacher: its answers, and what its layers give.

Teaching    the objective; `refuse_unlike` says whom it cannot teach

With temperature T, teacher logits t, student logits s and the share a of the data's own answers, a target's loss is
    (1 - a) T^2 KL(softmax(t / T) || softmax(s / T)) + a CE(s) + w mean over layers of |P h - g|^2 / D
T^2 keeps the gradient's size whatever T is (Hinton et al., arXiv 1503.02531, section 2.1). The last term is how far a
layer's output h is from the output g of the teacher's layer that stands at the same part of the depth, by a learned
projection P as TinyBERT has it (Jiao et al., arXiv 1909.10351, equation 8); as in MobileBERT's layer transfer (arXiv
2004.02984) it is a mean over the sample's tokens and channels.

Shape suffixes: B = samples, T = tokens, K = classes or tokens of the vocabulary, D = width of the teacher, E = of the
student, N = targets that count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costopt_trainer.compress.fitting import Objective
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.loss import IGNORED_TARGET, loss_sum


class Teaching(Objective):
    """A student's loss beside a teacher."""

    def __init__(
        self,
        teacher: LayeredModel,
        student: LayeredModel,
        example: Tensor,
        *,
        temperature: float = 2.0,
        labels_share: float = 0.5,
        hidden_weight: float = 0.0,
        pad_id: int | None = None,
    ) -> None:
        """`teacher` is frozen from here on, and stays where it is; `example` is a batch of inputs on its device, and on
        the student's. `pad_id`: tokens that are no part of a sample.

        Projections draw from torch's global random state. Raises NotRetryable("InvalidSettings") as `refuse_unlike`.
        """
        super().__init__()
        # In a tuple, so that it is no part of what is trained, saved or moved.
        self._teacher = (teacher.requires_grad_(False).eval(),)
        self._temperature, self._labels_share = temperature, labels_share
        self._hidden_weight, self._pad_id = hidden_weight, pad_id
        widths = refuse_unlike(teacher, student, example, hidden=hidden_weight > 0)
        projections = [nn.Linear(own, its, bias=False) for own, its in widths]
        for projection in projections:
            if projection.in_features == projection.out_features:
                nn.init.eye_(projection.weight)  # a student that is the teacher, but for what it has lost
        self.projections = nn.ModuleList(projections)

    def loss_sum(self, model: LayeredModel, inputs: Tensor, targets: Tensor) -> Tensor:
        """See above; `inputs` are on the teacher's device, too."""
        [teacher] = self._teacher
        hidden = self._hidden_weight > 0
        with _outputs_of(model, wanted=hidden) as own:
            logits = model(inputs)
        with torch.no_grad(), _outputs_of(teacher, wanted=hidden) as its:
            told = teacher(inputs)
        loss = logits.new_zeros((), dtype=torch.float32)
        if self._labels_share < 1:
            loss = loss + (1 - self._labels_share) * self._answers(logits, told, targets)
        if self._labels_share > 0:
            loss = loss + self._labels_share * loss_sum(logits, targets, model.label_smoothing)
        if hidden:
            loss = loss + self._hidden_weight * self._layers(own, its, inputs, targets)
        return loss

    def _answers(self, logits: Tensor, told: Tensor, targets: Tensor) -> Tensor:
        """T^2 KL, summed over the targets."""
        counts = targets != IGNORED_TARGET
        own_NK, its_NK = (each[counts].float() / self._temperature for each in (logits, told))
        divergence = F.kl_div(own_NK.log_softmax(-1), its_NK.log_softmax(-1), reduction="sum", log_target=True)
        return self._temperature**2 * divergence

    def _layers(self, own: dict[int, Tensor], its: dict[int, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared difference of the layers' outputs, over a sample's tokens, times its targets, summed."""
        real_BT = torch.ones_like(inputs) if self._pad_id is None else inputs != self._pad_id
        weights_BT = real_BT / real_BT.sum(dim=1, keepdim=True).clamp(min=1)
        targets_B = (targets != IGNORED_TARGET).reshape(len(targets), -1).sum(dim=1)
        total = torch.zeros((), device=inputs.device)
        for number, projection in enumerate(self.projections):
            wanted_BTD = its[layer_beside(number, len(self.projections), len(its))]
            far_BT = (projection(own[number]) - wanted_BTD).float().square().mean(dim=-1)
            total = total + ((far_BT * weights_BT).sum(dim=1) * targets_B).sum()
        return total / len(self.projections)


def layer_beside(number: int, layers: int, of_teacher: int) -> int:
    """The teacher's layer that the student's layer with this number, of so many, learns from: the last of its share."""
    return (number + 1) * of_teacher // layers - 1


def refuse_unlike(
    teacher: LayeredModel, student: LayeredModel, example: Tensor, *, hidden: bool
) -> list[tuple[int, int]]:
    """The widths of the student's layers and of the teacher's beside them; none unless `hidden`.

    Raises NotRetryable("InvalidSettings") if the two do not answer the same question, or have no such layers.
    """
    if student.has_own_loss:
        raise _wrong("a Distill step needs a model without a loss of its own: answers of a teacher take its place")
    was_training = student.training
    student.eval()
    with torch.no_grad(), _outputs_of(student, wanted=hidden) as own, _outputs_of(teacher, wanted=hidden) as its:
        answers, told = student(example), teacher(example)
    student.train(was_training)
    if answers.shape != told.shape:
        raise _wrong(
            "the teacher of a Distill step must have the student's vocabulary or classes, "
            f"{answers.shape[-1]}, but has {told.shape[-1]}"
        )
    if not hidden:
        return []
    fit = (
        own
        and len(own) <= len(its)
        and all(output.shape[:-1] == example.shape for output in (*own.values(), *its.values()))
    )
    if not fit or example.dim() != 2:
        raise _wrong(
            "distill.hiddenPercent must be 0 for this model: the outputs of its layers are not of tokens, or its "
            "teacher has fewer layers"
        )
    count = len(own)
    return [(own[number].shape[-1], its[layer_beside(number, count, len(its))].shape[-1]) for number in range(count)]


@contextmanager
def _outputs_of(model: LayeredModel, *, wanted: bool) -> Iterator[dict[int, Tensor]]:
    """What each layer gives in the forward pass within, by its number; of one that is repeated, the last."""
    outputs: dict[int, Tensor] = {}

    def remember(number: int) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[number] = output[0] if isinstance(output, tuple) else output

        return hook

    blocks = model.blocks() if wanted else []
    handles = [block.register_forward_hook(remember(number)) for number, block in enumerate(blocks)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _wrong(sentence: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", sentence)
