"""What a model makes of an input.

complete        goes on with a text, token by token
fill_masks      tells hidden tokens
classify_text   tells the class of a document; classify: of any other sample

Shape suffixes: T = tokens, V = vocabulary, K = classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from costopt.schema.trial import MASK, Choice, TrialAnswer
from costopt_trainer.data.tokenizers.table import SpecialTokens, TextTokenizer
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.models.decoder_lm import DecoderLM
from costopt_trainer.models.key_values import KeyValueCache
from costopt_trainer.trial.opening import Opened

MOST_CHOICES = 5
MOST_MASKS = 256


@torch.no_grad()
def complete(
    opened: Opened,
    text: str,
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    on_token: Callable[[], object] = lambda: None,
) -> TrialAnswer:
    """What follows on `text`: at most `max_tokens`, or up to the token that stands between two documents.

    Each is drawn from the softmax of the logits over `temperature`, by a generator of its own with `seed`; with a
    temperature of 0 it is the likeliest.
    """
    tokenizer, _ = _text_parts(opened)
    given = _tokens(tokenizer, text)
    if not given:
        if tokenizer.separator is None:
            raise NotRetryable("InvalidData", "the text must not be empty")
        given = [tokenizer.separator]  # the beginning of any document
    tokens, generator, cache = list(given), torch.Generator().manual_seed(seed), KeyValueCache()
    for _ in range(max_tokens):
        logits_V = _logits_behind(tokens, opened, cache)[: tokenizer.vocabulary_size].double()
        token = _drawn(logits_V, temperature, generator)
        on_token()
        if token == tokenizer.separator:
            break
        tokens.append(token)
    added = tokens[len(given) :]
    return TrialAnswer(
        task="Complete",
        text=tokenizer.decode(added),
        tokens=len(added),
        shortened=len(given) > opened.context_length,
    )


@torch.no_grad()
def fill_masks(opened: Opened, text: str) -> TrialAnswer:
    """The likeliest tokens where `text` has MASK."""
    tokenizer, special = _text_parts(opened)
    mask_id, parts = special.mask_id, text.split(MASK)
    if mask_id is None:
        raise NotRetryable("InvalidSettings", "the model's tokenizer must have a token that stands for a hidden one")
    if not 1 < len(parts) <= MOST_MASKS + 1:
        raise NotRetryable(
            "InvalidData", f"the text must have {MASK} where a token is to be told, at most {MOST_MASKS} times"
        )
    tokens = _tokens(tokenizer, parts[0])
    for part in parts[1:]:
        tokens += [mask_id, *_tokens(tokenizer, part)]
    if opened.shape.settings.type == "HuggingFace":  # its own training had them around each text
        tokens = [*special.before, *tokens, *special.after]
    if len(tokens) > opened.context_length:
        raise NotRetryable(
            "InvalidData",
            f"the text must have at most {opened.context_length} tokens, as many as the model sees, not {len(tokens)}",
        )
    logits_TV = _outputs(opened, torch.tensor([tokens]))[0, :, : tokenizer.vocabulary_size].double()
    places = [place for place, token in enumerate(tokens) if token == mask_id]
    told = [_choices(logits_TV[place], lambda number: tokenizer.decode([number])) for place in places]
    best = [choices[0].label for choices in told]
    filled = "".join(part + choice for part, choice in zip(parts, [*best, ""], strict=True))
    return TrialAnswer(task="FillMask", text=filled, choices=told)


def classify_text(opened: Opened, text: str) -> TrialAnswer:
    """The likeliest classes of a document, which is cut where a sample of training would be."""
    tokenizer, special = _text_parts(opened)
    tokens = _tokens(tokenizer, text)
    room = opened.context_length - len(special.before) - len(special.after)
    sample_1T = torch.tensor([[*special.before, *tokens[:room], *special.after]])
    if sample_1T.shape[1] == 0:
        raise NotRetryable("InvalidData", "the text must not be empty")
    return classify(opened, sample_1T).model_copy(update={"shortened": len(tokens) > room})


@torch.no_grad()
def classify(opened: Opened, sample: Tensor) -> TrialAnswer:
    """The likeliest classes of one sample, (1, ...)."""
    logits_K = _outputs(opened, sample)[0].double()
    names = opened.shape.class_names
    return TrialAnswer(
        task="Classify", choices=[_choices(logits_K, lambda number: str(number) if names is None else names[number])]
    )


def _logits_behind(tokens: list[int], opened: Opened, cache: KeyValueCache) -> Tensor:
    """The logits (V,) of what follows on `tokens`, of which `cache` has those of the last call.

    It serves a DecoderLM until the text is longer than the context. From then on each token moves the others to
    another position, and all are read again.
    """
    model = opened.model
    if not (isinstance(model, DecoderLM) and model.can_read and len(tokens) <= model.context_length):
        return _outputs(opened, torch.tensor([tokens[-opened.context_length :]]))[0, -1]
    with _errors_in_a_sentence():
        return model.next_logits(torch.tensor([tokens[cache.num_tokens :]]), cache)[0]


def _outputs(opened: Opened, inputs: Tensor) -> Tensor:
    """What the model gives; a graph of ONNX may take inputs of one length only. Raises NotRetryable."""
    with _errors_in_a_sentence():
        outputs: Tensor = opened.model(inputs)
    return outputs


@contextmanager
def _errors_in_a_sentence() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's are private, and a model of others may raise any
        why = f"{type(error).__name__}: {first_line(error)}"
        raise NotRetryable("InvalidData", f"the model cannot take this input ({why})") from error


def _text_parts(opened: Opened) -> tuple[TextTokenizer, SpecialTokens]:
    if opened.tokenizer is None or opened.special is None:
        raise ValueError("a model that reads text must have a tokenizer")
    return opened.tokenizer, opened.special


def _tokens(tokenizer: TextTokenizer, text: str) -> list[int]:
    """A byte of a terminal that is no UTF-8 becomes a question mark."""
    return [int(token) for token in tokenizer.encode(text.encode(errors="replace"))] if text else []


def _drawn(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    if not torch.isfinite(logits_V).all():
        raise NotRetryable("LossNotFinite", "the model must give finite logits, but gives others: it has diverged")
    if temperature == 0:
        return int(logits_V.argmax())
    # The largest becomes 0 before the division: a small temperature would give infinities.
    scaled_V = (logits_V - logits_V.max()) / temperature
    return int(torch.multinomial(scaled_V.softmax(dim=-1), 1, generator=generator))


def _choices(logits: Tensor, label_of: Callable[[int], str]) -> list[Choice]:
    shares, numbers = logits.softmax(dim=-1).topk(min(MOST_CHOICES, len(logits)))
    return [
        Choice(label=label_of(int(number))[:1024], probability=f"{float(share):.6f}")
        for share, number in zip(shares, numbers, strict=True)
    ]
