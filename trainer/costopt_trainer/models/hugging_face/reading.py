"""Models of the Hugging Face library that only read texts, in tokens of their own, whatever the training's are.

is_of_library    whether a folder holds such a model, and none that was trained here
reader           a folder -> a Reader, checked as `model.huggingFace.path` is; no code of the folder is run
text_losses      how hard a causal language model finds each text
text_vectors     where each text lies: the mean of an encoder's outputs (Reimers and Gurevych, arXiv 1908.10084)

Shape suffixes: B = texts, R = rows of a pass, T = tokens, D = width of the outputs.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from costopt.hostile import MAX_JSON_BYTES, Hostile, parse_json, read_file
from costopt.schema.data import Tokenizer
from costopt.schema.foreign_models import HuggingFace, TaskOfLibrary
from costopt_trainer.data.tokenizers.hugging_face import HuggingFaceFiles, HuggingFaceTokenizer
from costopt_trainer.errors import NotRetryable
from costopt_trainer.foreign_config import CONFIG_FILE
from costopt_trainer.models.artifact import OWN_CONFIG_FILE
from costopt_trainer.models.hugging_face.family import load_weights, positions_of
from costopt_trainer.models.hugging_face.library import can_be, library
from costopt_trainer.models.hugging_face.source import Source, content_hash, find_source
from costopt_trainer.models.loss import IGNORED_TARGET

Use = Literal["losses", "vectors"]
"""What a model is asked for."""
LONGEST = 1024
"""Tokens of a pass at most, where a model could take more: attention takes the square of them."""
TOKENS_AT_ONCE = 1 << 13
LOGITS_AT_ONCE = 1 << 25
"""128 MiB in float32."""


@dataclass(frozen=True)
class Reader:
    """A model that reads, not loaded yet."""

    setting: str
    """Which setting names it, for errors."""
    folder: Path
    use: Use
    task: TaskOfLibrary
    tokenizer: HuggingFaceTokenizer
    longest: int
    """Tokens that it is given at once."""
    digest: str
    """Of all that its answers follow from, hexadecimal."""

    def load(self, device: torch.device) -> nn.Module:
        """The model, on the device, in eval mode; the state of the random generators is left as it was."""
        auto = "AutoModelForCausalLM" if self.use == "losses" else "AutoModel"
        settings = HuggingFace(path=str(self.folder), task=self.task, context_length=8)
        with in_words_of(self.setting, self.folder), torch.random.fork_rng(devices=[]):
            model, fresh = load_weights(find_source(settings), settings, auto)
        lacking = [name for name in fresh if "pooler" not in name]  # what the mean of the outputs does not ask
        if lacking:
            raise NotRetryable(
                "InvalidSettings",
                f"{self.setting}: {self.folder} must have all weights of its model, but has none for "
                f"{', '.join(lacking[:4])}",
            )
        return model.to(device).eval()


def is_of_library(folder: Path) -> bool:
    """Whether `folder` has a config.json of the library, and is no model that was trained here."""
    if os.path.lexists(folder / OWN_CONFIG_FILE):
        return False
    try:
        plain = parse_json(read_file((folder / CONFIG_FILE).resolve(), max_bytes=MAX_JSON_BYTES), large_integers=True)
    except (OSError, Hostile):
        return False
    return isinstance(plain, dict) and "model_type" in plain


def reader(folder: Path, setting: str, use: Use) -> Reader:
    """The model in `folder`. Raises NotRetryable, in words of `setting`, if it cannot be used so."""
    with in_words_of(setting, folder):
        source = find_source(HuggingFace(path=str(folder)))
        task = _task(source, use)
        library()
        positions = positions_of(HuggingFace(path=str(folder), task=task, context_length=8))
        if source.tokenizer_folder is None:
            raise NotRetryable("InvalidSettings", f"{source.name} must have its tokenizer.json, which reads the texts")
        kind = HuggingFaceFiles(Tokenizer(type="HuggingFace", path=str(source.tokenizer_folder)))
    longest = LONGEST if positions is None else min(LONGEST, positions)
    parts = [content_hash(source), source.config, kind.fingerprint(), longest]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Reader(setting, folder, use, task, kind.learn(()), longest, digest)


def _task(source: Source, use: Use) -> TaskOfLibrary:
    library()
    if use == "losses" or not can_be("MaskedLM", source.config):
        return "CausalLM"
    if source.config.get("is_encoder_decoder", False):
        raise NotRetryable("InvalidSettings", f"{source.name} must be an encoder or a decoder, but is both")
    return "MaskedLM"


def text_losses(model: nn.Module, own: Reader, texts: Sequence[str], device: torch.device) -> NDArray[np.float64]:
    """The loss of each text, nats summed over all of its bytes, float64 (B,).

    Each piece of `own.longest` tokens is told by itself, from what begins a text.
    """
    special = own.tokenizer.special_tokens
    begin = list(special.before) or [own.tokenizer.separator]
    rows, of_text = [], []
    for number, text in enumerate(texts):
        tokens, size = own.tokenizer.encode(text.encode()).tolist(), own.longest - len(begin)
        for start in range(0, len(tokens), size):
            rows.append(begin + tokens[start : start + size])
            of_text.append(number)
    losses_B = np.zeros(len(texts), dtype=np.float64)
    for numbers, tokens_RT, is_real_RT in _passes(rows, own.tokenizer.vocabulary_size, device):
        logits = model(input_ids=tokens_RT, attention_mask=is_real_RT.long(), use_cache=False).logits[:, :-1].float()
        # What begins a text is told by nothing, and is none of its text.
        told_RT = torch.where(is_real_RT, tokens_RT, IGNORED_TARGET)[:, 1:].clone()
        told_RT[:, : len(begin) - 1] = IGNORED_TARGET
        each = F.cross_entropy(logits.flatten(0, 1), told_RT.flatten(), reduction="none", ignore_index=IGNORED_TARGET)
        sums_R = each.view(told_RT.shape).sum(dim=1, dtype=torch.float64).cpu().numpy()
        np.add.at(losses_B, [of_text[number] for number in numbers], sums_R)
    return losses_B


def text_vectors(model: nn.Module, own: Reader, texts: Sequence[str], device: torch.device) -> NDArray[np.float32]:
    """The mean of the outputs for each text's tokens, of its first `own.longest`, float32 (B, D)."""
    special = own.tokenizer.special_tokens
    around = len(special.before) + len(special.after)
    rows = [
        [*special.before, *own.tokenizer.encode(text.encode()).tolist()[: own.longest - around], *special.after]
        for text in texts
    ]
    rows = [row or [own.tokenizer.separator] for row in rows]
    vectors: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(rows)
    for numbers, tokens_RT, is_real_RT in _passes(rows, 1, device):
        outputs_RTD = model(input_ids=tokens_RT, attention_mask=is_real_RT.long()).last_hidden_state.float()
        sums_RD = (outputs_RTD * is_real_RT.unsqueeze(2)).sum(dim=1)
        means_RD = (sums_RD / is_real_RT.sum(dim=1, keepdim=True)).cpu().numpy()
        for number, mean_D in zip(numbers, means_RD, strict=True):
            vectors[number] = mean_D
    return np.stack(vectors)


def _passes(
    rows: Sequence[list[int]], vocabulary_size: int, device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Rows of like length, filled up behind: their numbers, tokens int64 (R, T), and which of these are real."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    at_once = min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // vocabulary_size)
    while order:
        count = max(1, at_once // len(rows[order[-1]]))
        part, order = order[-count:], order[:-count]
        lengths = torch.tensor([len(rows[number]) for number in part])
        tokens_RT = torch.zeros(len(part), int(lengths.max()), dtype=torch.int64)
        for row, number in enumerate(part):
            tokens_RT[row, : len(rows[number])] = torch.tensor(rows[number])
        is_real_RT = torch.arange(tokens_RT.shape[1]) < lengths.unsqueeze(1)
        with torch.inference_mode():
            yield part, tokens_RT.to(device), is_real_RT.to(device)


@contextlib.contextmanager
def in_words_of(setting: str, folder: Path) -> Iterator[None]:
    """Errors about `model.huggingFace` are told as ones about `setting`."""
    try:
        yield
    except NotRetryable as error:
        told: Any = str(error)
        for words, own in (
            (f"model.huggingFace.path: {folder}", f"{setting}: {folder}"),
            ("which only runs with trustRemoteCode: true", "which is not run here"),
            ("model.type HuggingFace needs", f"{setting} needs"),
        ):
            told = told.replace(words, own)
        raise NotRetryable(error.reason, told) from error
