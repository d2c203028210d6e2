"""The fingerprint of a loaded model's weights."""

from __future__ import annotations

from typing import Any

from rtdyn.audit.fingerprint import Fingerprint, fingerprint_of


def fingerprint(model: Any) -> Fingerprint:
    """The fingerprint of a loaded model's embedding, unembedding and the matrices of its final layer.

    model: transformers' own, or a LayeredModel after its capture, whose final layer and unembedding are in memory.
    """
    from rtdyn.capture.layered_model import LayeredModel
    from rtdyn.model.families import anatomy

    layered = model if isinstance(model, LayeredModel) else None
    whole = layered.skeleton if layered is not None else model
    embedding = whole.get_input_embeddings()
    matrices = {
        "embedding": whole.get_output_embeddings().weight,
        **dict(anatomy(whole).blocks[-1].module.named_parameters()),
    }
    if whole.config.tie_word_embeddings:
        return fingerprint_of(matrices)
    rows = embedding.weight if layered is None else layered.stored_weight(embedding)
    return fingerprint_of({**matrices, "embedding": rows, "unembedding": matrices["embedding"]})
