"""Where the final MLP's weights are in a checkpoint's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtdyn.errors import InputError
from rtdyn.model.families import check_config
from rtdyn.model.layouts import LAYOUTS, MatrixPlace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StoredMatrix:
    """A weight matrix in a checkpoint's files."""

    tensor: str
    transposed: bool
    """Whether it is stored (d, F)."""
    part: int = 0
    of: int = 1
    """It is the `part`-th of so many that the tensor holds, one below the other."""

    def rows(self, stored: Tensor) -> Tensor:
        """(F, d): a row a neuron."""
        return (stored.T if self.transposed else stored).tensor_split(self.of)[self.part]


@dataclass(frozen=True)
class FinalMlp:
    """Where the final MLP's weights are in a checkpoint's files."""

    layer: int
    inputs: Mapping[str, StoredMatrix]
    """By the names of `Anatomy.input_rows`."""
    output: StoredMatrix


def final_mlp(config: Mapping[str, Any], where: str) -> FinalMlp:
    """The tensors of the final MLP of a model with this config.json. Raises InputError if the config does not say."""
    layout = LAYOUTS[check_config(config, where)]
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    if not isinstance(layers, int) or layers < 1:
        raise InputError(f"{where}: config.json gives no usable num_hidden_layers; correct it")

    def matrix(place: MatrixPlace, transposed: bool) -> StoredMatrix:
        return StoredMatrix(f"{layout.blocks}.{layers - 1}.{place.module}.weight", transposed, place.part, place.of)

    # what a neuron writes is a column of torch's Linear
    inputs = {name: matrix(place, layout.stored_by_input) for name, place in layout.inputs.items()}
    return FinalMlp(layers - 1, inputs, matrix(MatrixPlace(layout.output), not layout.stored_by_input))


def base_model_name(family: str) -> str:
    """What the names of a family's parameters begin with, up to the first dot; those of the head do not."""
    return LAYOUTS[family].blocks.partition(".")[0]
