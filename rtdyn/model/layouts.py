"""Where each family keeps what is measured: the one file that knows the names of its modules.

The same names stand in transformers' models and in checkpoints' files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtdyn.model.positions import Positions, alibi, by_id, in_the_stream, rotary, rotary_by_kind

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Norm:
    """How a family's norms are made."""

    centred: bool
    """LayerNorm; else RMSNorm."""
    epsilon: str | float
    """The module's attribute, or the number where it stands in transformers' code alone."""
    gain_from: float = 0.0
    """What is added to the weight to give the gain."""

    def gain(self, weight: Tensor) -> Tensor:
        """(d,): γ, by the module's weight (d,)."""
        return weight + self.gain_from if self.gain_from else weight

    def epsilon_of(self, module: nn.Module) -> float:
        """ε of one of the family's norms."""
        return float(getattr(module, self.epsilon) if isinstance(self.epsilon, str) else self.epsilon)


@dataclass(frozen=True)
class MatrixPlace:
    """A weight matrix of a block's MLP."""

    module: str
    """In the block."""
    part: int = 0
    of: int = 1
    """The matrix is the `part`-th of so many that are stored as one, side by side along what they give."""


@dataclass(frozen=True)
class PlainPlaces:
    """Where a block keeps what `plain_block.PlainBlock` has beside the layout's own names."""

    attention_norm: str
    attention_in: tuple[str, ...]
    """Queries, keys and values of one matrix, side by side by head; or those of three."""
    mlp_norm: str
    activation: str


@dataclass(frozen=True)
class Layout:
    """The module names of a family."""

    blocks: str
    """The list of blocks, in the model with its head."""
    final_norm: str
    """In the backbone, which is what the blocks lie in."""
    norm: Norm
    attention: str
    """In a block."""
    heads: str
    """The attention's output projection, in the attention."""
    inputs: Mapping[str, MatrixPlace]
    """By the names of `Anatomy.input_rows`."""
    output: str
    """The MLP's output projection, in a block."""
    positions: Positions = rotary
    cache: str = "past_key_values"
    """The argument of a block that takes a cache of keys and values."""
    stored_by_input: bool = False
    """Whether matrices are stored (what they read, what they give), as GPT-2's Conv1D has them."""
    post_norm: str | None = None
    """In a block, between the MLP's output projection and the residual stream."""
    parallel_norm: str | None = None
    """What the MLP reads by where it reads what enters the block; a setting of the model may say that it does not."""
    capped: bool = False
    """Whether the family's code caps logits and attention's scores, where the config.json sets a cap."""
    plain: PlainPlaces | None = None
    """Where the blocks are such as `plain_block.py` describes, and rotate halves of a head's first numbers."""

    @property
    def backbone(self) -> str:
        """What the blocks lie in, in the model with its head."""
        return self.blocks.rpartition(".")[0]


_LAYER_NORM = Norm(centred=True, epsilon="eps")
_RMS = Norm(centred=False, epsilon="variance_epsilon")
_RMS_FROM_ONE = Norm(centred=False, epsilon="eps", gain_from=1.0)

_QUERY_KEY_VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

_GPT_NEOX = Layout(
    blocks="gpt_neox.layers",
    final_norm="final_layer_norm",
    norm=_LAYER_NORM,
    attention="attention",
    heads="dense",
    inputs={"in": MatrixPlace("mlp.dense_h_to_4h")},
    output="mlp.dense_4h_to_h",
    cache="layer_past",
    parallel_norm="post_attention_layernorm",
    plain=PlainPlaces("input_layernorm", ("attention.query_key_value",), "post_attention_layernorm", "mlp.act"),
)
_GPT2 = Layout(
    blocks="transformer.h",
    final_norm="ln_f",
    norm=_LAYER_NORM,
    attention="attn",
    heads="c_proj",
    inputs={"in": MatrixPlace("mlp.c_fc")},
    output="mlp.c_proj",
    positions=in_the_stream,
    stored_by_input=True,
)
_GPTJ = Layout(
    blocks="transformer.h",
    final_norm="ln_f",
    norm=_LAYER_NORM,
    attention="attn",
    heads="out_proj",
    inputs={"in": MatrixPlace("mlp.fc_in")},
    output="mlp.fc_out",
    positions=by_id,
    cache="layer_past",
    parallel_norm="ln_1",
)
_BLOOM = Layout(
    blocks="transformer.h",
    final_norm="ln_f",
    norm=_LAYER_NORM,
    attention="self_attention",
    heads="dense",
    inputs={"in": MatrixPlace("mlp.dense_h_to_4h")},
    output="mlp.dense_4h_to_h",
    positions=alibi,
    cache="layer_past",
)
_OPT = Layout(
    blocks="model.decoder.layers",
    final_norm="final_layer_norm",
    norm=_LAYER_NORM,
    attention="self_attn",
    heads="out_proj",
    inputs={"in": MatrixPlace("fc1")},
    output="fc2",
    positions=in_the_stream,
)
_PHI = Layout(
    blocks="model.layers",
    final_norm="final_layernorm",
    norm=_LAYER_NORM,
    attention="self_attn",
    heads="dense",
    inputs={"in": MatrixPlace("mlp.fc1")},
    output="mlp.fc2",
    parallel_norm="input_layernorm",
    plain=PlainPlaces("input_layernorm", _QUERY_KEY_VALUE, "input_layernorm", "mlp.activation_fn"),
)
_LLAMA = Layout(
    blocks="model.layers",
    final_norm="norm",
    norm=_RMS,
    attention="self_attn",
    heads="o_proj",
    inputs={"gate": MatrixPlace("mlp.gate_proj"), "up": MatrixPlace("mlp.up_proj")},
    output="mlp.down_proj",
)
"""The neuron of a gated MLP is the product that enters `down_proj`."""
_PLAIN_LLAMA = replace(
    _LLAMA, plain=PlainPlaces("input_layernorm", _QUERY_KEY_VALUE, "post_attention_layernorm", "mlp.act_fn")
)
_OLMO2 = replace(_LLAMA, post_norm="post_feedforward_layernorm")
_GEMMA = replace(_LLAMA, norm=_RMS_FROM_ONE)
_VAULT_GEMMA = replace(_GEMMA, capped=True)
_GEMMA2 = replace(_VAULT_GEMMA, post_norm="post_feedforward_layernorm")
_GATE_UP = "mlp.gate_up_proj"

LAYOUTS: Mapping[str, Layout] = {
    "gpt_neox": _GPT_NEOX,
    "gpt2": _GPT2,
    "gptj": _GPTJ,
    "bloom": _BLOOM,
    "opt": _OPT,
    "phi": _PHI,
    "phi3": replace(_LLAMA, inputs={"gate": MatrixPlace(_GATE_UP, 0, 2), "up": MatrixPlace(_GATE_UP, 1, 2)}),
    "stablelm": replace(_LLAMA, norm=_LAYER_NORM, parallel_norm="input_layernorm"),
    "llama": _PLAIN_LLAMA,
    # biases, norms and rotary choices of theirs are inside the attention
    "mistral": _PLAIN_LLAMA,
    "qwen2": _PLAIN_LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    # its norms have no parameters
    "olmo": replace(_LLAMA, norm=Norm(centred=True, epsilon=1e-5)),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, positions=rotary_by_kind),
    "apertus": replace(_LLAMA, inputs={"in": MatrixPlace("mlp.up_proj")}),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": replace(_GEMMA2, positions=rotary_by_kind),
    "vaultgemma": _VAULT_GEMMA,
}
"""By the `model_type` of a config.json. A family enters once tests compare it with hooks on transformers' own model."""
WITHOUT_LIMIT = tuple(family for family, layout in LAYOUTS.items() if layout.positions is alibi)
"""Families whose attention falls with distance alone, so that a window may be of any length."""
