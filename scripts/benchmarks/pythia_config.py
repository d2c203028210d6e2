"""Pythia's config.json at any size."""

from __future__ import annotations


def pythia_config(layers: int, width: int, heads: int, rows: int) -> dict[str, object]:
    """GPT-NeoX as Pythia has it, of so many layers, heads and vocabulary rows."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": rows,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float16",
    }
