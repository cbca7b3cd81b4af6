"""The Llama-shaped model over bytes that benchmarks of Hugging Face models train."""

import json
from pathlib import Path


def write_config(folder: Path, *, width: int, layers: int, context: int) -> str:
    """Write its config.json into `folder`, which is made; returns the folder's path."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
