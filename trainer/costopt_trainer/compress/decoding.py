"""Writing token by token, timed: the prompt in one pass (prefill), then token after token (decode).

Decoder          keeps what later tokens need of earlier ones; DECODERS: the kinds, the first that suits a model is used
time_decoding    variant and baseline in turn

A DecoderLM and models of the Hugging Face library keep keys and values, recurrent ones their state. Others keep
nothing: each of their tokens costs a pass over all before it. A compiler would compile anew for each length, and a
graph keeps nothing, so what runs as one of these is timed here under TorchEager, and said so; what exists only as a
graph is left out.
"""

import functools
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from costopt.schema.variant_details import Timing
from costopt_trainer.compress.engines import Forward
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.points import Point, inputs_at, timing_of
from costopt_trainer.compress.timing import Running, Times, in_turn, time_once
from costopt_trainer.errors import first_line
from costopt_trainer.models.decoder_lm import DecoderLM
from costopt_trainer.models.key_values import KeyValueCache
from costopt_trainer.models.recurrent import Recurrent

DECODED = 8
"""Tokens that are written behind each prompt."""
LEAST, MOST = 3, 20
"""Prompts at each size, if the time allows for so many."""


class Decoder(Protocol):
    """A model that writes token by token."""

    cached: bool
    """Whether it keeps anything of earlier tokens but themselves."""

    def prefill(self, tokens_BT: Tensor) -> Any:
        """Read a prompt; what `step` needs of it."""

    def step(self, tokens_B1: Tensor, kept: Any) -> Any:
        """Read one more token of each sample; what the next step needs."""


class _KeysAndValues:
    """Of the Hugging Face library."""

    cached = True

    def __init__(self, model: Any) -> None:
        self._model = model.model
        # The library is about to rename it; what comes back has both names.
        takes = inspect.signature(self._model.forward).parameters
        self._keyword = "cache" if "cache" in takes else "past_key_values"

    def prefill(self, tokens_BT: Tensor) -> Any:
        return self._model(input_ids=tokens_BT, use_cache=True).past_key_values

    def step(self, tokens_B1: Tensor, kept: Any) -> Any:
        return self._model(input_ids=tokens_B1, use_cache=True, **{self._keyword: kept}).past_key_values


class _OwnKeysAndValues:
    """Of a DecoderLM."""

    cached = True

    def __init__(self, model: DecoderLM) -> None:
        self._model = model

    def prefill(self, tokens_BT: Tensor) -> KeyValueCache:
        return self.step(tokens_BT, KeyValueCache())

    def step(self, tokens_B1: Tensor, kept: KeyValueCache) -> KeyValueCache:
        self._model.next_logits(tokens_B1, kept)
        return kept


class _State:
    """Of a recurrent model."""

    cached = True

    def __init__(self, model: Recurrent) -> None:
        self._model = model

    def prefill(self, tokens_BT: Tensor) -> Tensor:
        return self._run(tokens_BT, None)

    def step(self, tokens_B1: Tensor, kept: Tensor) -> Tensor:
        return self._run(tokens_B1, kept)

    def _run(self, tokens_BT: Tensor, state: Tensor | None) -> Tensor:
        hidden, after = self._model.run(tokens_BT, state)
        if self._model.vocabulary_head is not None:
            self._model.vocabulary_head(hidden[:, -1:])
        return after


class _Whole:
    """Of any other: all tokens are read again for each."""

    cached = False

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def prefill(self, tokens_BT: Tensor) -> Tensor:
        self._forward(tokens_BT)
        return tokens_BT

    def step(self, tokens_B1: Tensor, kept: Tensor) -> Tensor:
        return self.prefill(torch.cat([kept, tokens_B1], dim=1))


def _keeps_keys_and_values(forward: Forward) -> bool:
    config = getattr(forward, "config", None)
    return isinstance(forward, nn.Module) and hasattr(forward, "model") and bool(getattr(config, "use_cache", False))


DECODERS: Sequence[tuple[Callable[[Forward], bool], Callable[[Any], Decoder]]] = (
    (_keeps_keys_and_values, _KeysAndValues),
    (lambda forward: isinstance(forward, DecoderLM) and forward.can_read, _OwnKeysAndValues),
    (lambda forward: isinstance(forward, Recurrent), _State),
    (lambda _forward: True, _Whole),
)
"""Whether a kind suits a model, and how it is made."""


def decoder_of(forward: Forward) -> Decoder:
    """The first kind that suits."""
    return next(make for suits, make in DECODERS if suits(forward))(forward)


def time_decoding(
    pair: Sequence[Running],
    points: Sequence[Point],
    batch: Tensor,
    calls: Overdue,
    limit: float,
    *,
    sample_seconds: float = 0.0,
) -> tuple[list[list[Timing]], list[str]]:
    """Timings of prefill and decode of each of `pair` at each of `points`, and a sentence for each size at which that
    is impossible. `batch` has tokens (B, T), of which a pass takes `sample_seconds` for each sample. It takes about
    `limit` seconds in all; sizes at which it would take longer are left out."""
    timings: list[list[Timing]] = [[] for _ in pair]
    uncompiled = [_uncompiled(running) for running in pair]
    if any(running.engine == "OnnxRuntime" for running in uncompiled):
        return timings, ["prefill and decode are not timed: an ONNX graph alone keeps nothing of earlier tokens"]
    notes: list[str] = []
    if others := {one.engine for one, other in zip(pair, uncompiled, strict=True) if one is not other}:
        both = " and ".join(sorted(others))
        notes.append(f"prefill and decode are timed under TorchEager: {both} would read or compile all anew each time")
    decoders = [decoder_of(running.forward) for running in uncompiled]
    end = time.perf_counter() + limit
    for number, point in enumerate(points):
        length = point.sequence_length or 0
        steps = min(DECODED, length - 1)
        if steps < 1:
            notes.append(f"prefill and decode are not timed at {point.told}: there is no room for a prompt")
            continue
        # At least a warm-up and a round, each with a pass for the prompt, and one for each token where nothing is kept.
        passes = sum(2 * (1 if decoder.cached else 1 + steps) for decoder in decoders)
        least = passes * sample_seconds * point.batch_size * length / batch.shape[1]
        if (number and time.perf_counter() > end) or least > limit:
            notes.append(f"prefill and decode are not timed at {point.told}: measureSeconds leaves no time for it")
            continue
        tokens_BT = inputs_at(batch, point)
        rounds = [_round(decoder, tokens_BT, steps, calls) for decoder in decoders]
        each = limit / len(points)
        try:
            with torch.no_grad():
                in_turn(rounds, calls, each / 4, most=1)
                written = in_turn(rounds, calls, each * 3 / 4, least=LEAST, most=MOST)
        except Exception as error:  # noqa: BLE001  a model's own exceptions are many
            notes.append(f"no prefill and decode at {point.told}: {type(error).__name__}: {first_line(error)}"[:256])
            continue
        prompt = replace(point, sequence_length=length - steps)
        for collected, running, decoder, results in zip(timings, uncompiled, decoders, written, strict=True):
            first = Times(tuple(seconds[0] for seconds in results))
            then = Times(tuple(second for seconds in results for second in seconds[1:]))
            collected.append(timing_of("Prefill", prompt, running, first, per_token=True))
            decode = timing_of("Decode", replace(prompt, sequence_length=1), running, then, per_token=True)
            told = {"sequence_length": prompt.sequence_length, "cached": decoder.cached}
            collected.append(decode.model_copy(update=told))
    return timings, notes


def _round(decoder: Decoder, tokens_BT: Tensor, steps: int, calls: Overdue) -> Callable[[], list[float]]:
    """Writes `steps` tokens behind a prompt; the result is the seconds of the prompt and of each token."""
    prompt_BT, written = tokens_BT[:, :-steps], tokens_BT[:, -steps:].split(1, dim=1)

    def timed(work: Callable[[], Any], kept: list[Any]) -> float:
        return time_once(lambda: kept.append(work()), tokens_BT.device)

    def once() -> list[float]:
        kept: list[Any] = []
        seconds = [timed(functools.partial(decoder.prefill, prompt_BT), kept)]
        for token_B1 in written:
            calls.begin()
            seconds.append(timed(functools.partial(decoder.step, token_B1, kept.pop()), kept))
        return seconds

    return once


def _uncompiled(running: Running) -> Running:
    if running.engine not in ("TorchCompiled", "OnnxRuntime") or running.in_torch is None:
        return running
    return Running("TorchEager", running.in_torch)
