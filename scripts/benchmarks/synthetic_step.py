"""A GPT-NeoX checkpoint of a true model's sizes whose activations are not those of a random network.

A random network's neurons hardly correlate, so analyses of graphs and groups find nothing to do in it. Here:

- Tokens have topics. The embedding of a type has three parts. One lies along one direction that grows with its log
  frequency. The others are a heavy-tailed mixture (Student's t, 3 degrees) of TOPICS directions, and noise.
- The final MLP reads them. A neuron's input row is a heavy-tailed mixture of the same directions, with loadings that
  fall as 1/k, and Student noise of 4 degrees. Rows have log-normal lengths. So hidden units share a low-rank structure.
- Neurons write along frequency. An output row is a part along the unembedding's direction of log frequency, a mixture
  of topics, and noise. Its length is Pareto-distributed, so that a few neurons count for much.
- The unembedding has such a structure too, of normal mixtures; the final norm's shift gives the unigram distribution.

Counts follow Zipf's law with an end of types never seen; the text is drawn from them, independently.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pythia_config import pythia_config
from safetensors.torch import save_file
from torch import Tensor

from rtdyn.checkpoints.checkpoint import Checkpoint, sha256_of
from rtdyn.text.draw import DrawnWindow
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.positions import measure
from rtdyn.text.token_classes import classify
from rtdyn.text.token_counts import TokenCounts
from rtdyn.text.windows import EvaluationSet, pack

SHAPES = {
    "mini": (64, 4, 2048),
    "70m": (512, 8, 50304),
    "410m": (1024, 16, 50304),
    "1.4b": (2048, 16, 50304),
    "2.8b": (2560, 32, 50304),
    "12b": (5120, 40, 50688),
}
"""Width, heads and vocabulary rows, from Pythia's configs; the MLPs are four times as wide. `mini` is for trials."""
TOPICS = 24
ZIPF_OFFSET = 2.7
NEVER_SEEN = 0.02
"""Share of the types that the counts lack, as vocabularies have them."""
CORPUS_TOKENS = 3e11
DOCUMENT_TOKENS = 700
WINDOW = 256
SHARED = 0.7
"""Share of a neuron's input that comes from topics, in variance."""


def token_counts(types: int) -> np.ndarray:
    """int64 (types,): Zipf's law over ids in a fixed random order, the rarest never seen."""
    ranks = np.arange(1, types + 1)
    expected = CORPUS_TOKENS / (ranks + ZIPF_OFFSET)
    expected[int((1 - NEVER_SEEN) * types) :] = 0
    return np.random.default_rng(1).permutation(expected.astype(np.int64))


def drawn_windows(counts: np.ndarray, tokens: int, seed: int) -> Iterator[DrawnWindow]:
    """Windows of ids drawn from the counts, id 0 left out, a little more than `tokens` in all."""
    share = counts.astype(np.float64)
    share[0] = 0
    rng = np.random.default_rng(seed)
    for document in range(tokens // DOCUMENT_TOKENS + 2):
        ids = rng.choice(len(share), DOCUMENT_TOKENS, p=share / share.sum())
        for start in range(0, DOCUMENT_TOKENS - WINDOW + 2, WINDOW - 1):
            yield DrawnWindow(document, start, ids[start : start + WINDOW - 1])


def drawn_evaluation(
    counts: np.ndarray,
    config: dict[str, object],
    tokens: int,
    *,
    positions_per_rare: float,
    min_targets: int,
    seed: int = 0,
) -> Evaluation:
    """An evaluation set of `tokens` ids drawn from the counts, id 0 beginning each window; it needs no tokenizer."""
    kept = TokenCounts(counts, "drawn", "")
    logits = int(str(config["vocab_size"]))
    classes = classify(kept, ("paper-text",), logits)
    text: EvaluationSet = pack(
        drawn_windows(counts, tokens, seed), WINDOW, 0, 0, lambda so_far, window, some: so_far >= tokens
    )
    positions = measure(text, classes, "target", positions_per_rare, min_targets, seed)
    return Evaluation(text, kept, classes, positions, "", "drawn", {}, logits, config, None, seed)


def model_config(shape: str, layers: int) -> dict[str, object]:
    """Pythia's config.json at this shape, with so many layers."""
    width, heads, rows = SHAPES[shape]
    return pythia_config(layers, width, heads, rows)


def make_checkpoint(folder: Path, shape: str, layers: int, counts: np.ndarray, seed: int = 0) -> Checkpoint:
    """Writes the checkpoint to `folder`, float16, and returns it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(model_config(shape, layers)))
    file = folder / "model.safetensors"
    tensors = _weights(SHAPES[shape][0], SHAPES[shape][2], layers, counts, seed)
    save_file({name: values.half().contiguous() for name, values in tensors.items()}, file, metadata={"format": "pt"})
    return Checkpoint(0, folder, "step0", None, {file.name: sha256_of(file)})


def _weights(width: int, rows: int, layers: int, counts: np.ndarray, seed: int) -> dict[str, Tensor]:
    neurons = 4 * width
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, sd: float = 1.0) -> Tensor:
        return torch.randn(*size, generator=generator).mul_(sd)

    def student(*size: int, degrees: int) -> Tensor:
        """Of unit variance."""
        squares = sum(normal(*size).square_() for _ in range(degrees))
        assert isinstance(squares, Tensor)
        return normal(*size) / (squares / (degrees - 2)).sqrt()

    topics = min(TOPICS, width // 4)
    directions = torch.linalg.qr(normal(width, 2 * topics + 2)).Q.T
    read, write = directions[: topics + 1], directions[topics + 1 :]
    log_f = torch.from_numpy(np.log(counts + 1.0)).float()
    frequency = ((log_f - log_f.mean()) / log_f.std())[:, None]
    falling = (1.0 / torch.arange(1, topics + 1)).sqrt()
    mixture = student(rows, topics, degrees=3) * falling
    # a half of the squared length along the shared directions, which is `width` in all
    own = torch.cat([frequency, mixture], dim=1) * (0.5 * width / (1 + falling.square().sum())).sqrt()
    embedding = own @ read + normal(rows, width, sd=0.5**0.5)
    # normal, or a few types with huge logits would be all that the model predicts
    meanings = torch.cat([frequency, normal(rows, topics) * falling], dim=1)
    unembedding = (meanings @ write + normal(rows, width, sd=0.5)) / width**0.5

    loadings = student(neurons, topics + 1, degrees=3) / torch.arange(1, topics + 2)
    shared = loadings / loadings.norm(dim=1, keepdim=True) * (SHARED * topics / width) ** 0.5
    reading = shared @ read + student(neurons, width, degrees=4) * ((1 - SHARED) / width) ** 0.5
    reading *= normal(neurons, 1, sd=0.4).exp()
    along = torch.cat([student(neurons, 1, degrees=3), 0.5 * student(neurons, topics, degrees=3) * falling], dim=1)
    writing = along @ write + normal(neurons, width, sd=width**-0.5)
    pareto = torch.rand(neurons, 1, generator=generator).clamp(min=1e-4).pow(-1 / 2.5)
    writing *= pareto * (width / neurons) ** 0.5

    # E log f over a text is what the stream's mean gives; the rest of the unigram distribution is the shift's
    shift = write[0] * (float(log_f.std()) * 0.8 * width**0.5)
    final = {"weight": torch.ones(width), "bias": shift}
    tensors = {"gpt_neox.embed_in.weight": embedding, "embed_out.weight": unembedding}
    tensors |= {f"gpt_neox.final_layer_norm.{name}": values for name, values in final.items()}
    for layer in range(layers):
        last = layer == layers - 1
        modules = {
            "input_layernorm": (torch.ones(width), torch.zeros(width)),
            "post_attention_layernorm": (torch.ones(width), torch.zeros(width)),
            "attention.query_key_value": (normal(3 * width, width, sd=width**-0.5), torch.zeros(3 * width)),
            "attention.dense": (normal(width, width, sd=0.3 * width**-0.5), torch.zeros(width)),
            "mlp.dense_h_to_4h": (
                reading if last else normal(neurons, width, sd=width**-0.5),
                normal(neurons, sd=0.5),
            ),
            "mlp.dense_4h_to_h": (
                writing.T if last else normal(width, neurons, sd=0.3 * neurons**-0.5),
                torch.zeros(width),
            ),
        }
        for module, (weight, bias) in modules.items():
            tensors |= {f"gpt_neox.layers.{layer}.{module}.{n}": v for n, v in (("weight", weight), ("bias", bias))}
    return tensors
