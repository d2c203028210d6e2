"""What a folder's weight files hold beyond their digests: headers, indices, times, and the numbers' fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from rtdyn.audit.fingerprint import Fingerprint, fingerprint_of_files
from rtdyn.audit.listing import Listing, Weights, unusable, weights_in
from rtdyn.audit.saves import Save, doubts, save_in
from rtdyn.blame import disk_fault
from rtdyn.checkpoints.checkpoint import loading, read_config
from rtdyn.checkpoints.local import step_folder
from rtdyn.errors import InputError
from rtdyn.suites.suite import SuiteSpec

Faults = dict[int, dict[str, str]]
"""By step: the kinds of faults, each with its reason."""


def loaded_weights(listings: Mapping[int, Listing | None]) -> dict[int, Weights]:
    """What would be loaded of each step from which a model can be."""
    usable = {s: listing for s, listing in listings.items() if listing is not None and unusable(listing) is None}
    return {step: weights_in(listing)[0] for step, listing in usable.items()}


def faults_beside_numbers(suite: SuiteSpec, weights: Mapping[int, Weights]) -> Faults:
    """What headers, indices and times of the steps' weight files say against them; nothing where a disk fails."""
    saves: dict[int, Save] = {}
    for step, loaded in weights.items():
        with suppress(InputError):  # the step fails where it is loaded
            saves[step] = save_in(step_folder(suite, step), loaded)
    return doubts(saves)


def fingerprints_in(suite: SuiteSpec, weights: Mapping[int, Weights], faults: Faults) -> dict[int, Fingerprint]:
    """The fingerprints of all steps' weights; a step whose weights are damaged has none, and a fault more.

    Steps of a family that is not supported have none. Raises InputError if a disk keeps weights from being read.
    """
    fingerprints = {}
    for step, loaded in weights.items():
        folder = step_folder(suite, step)
        try:
            family = str(read_config(folder)["model_type"])
        except InputError:
            continue
        try:
            with loading(folder):
                fingerprints[step] = fingerprint_of_files([folder / name for name in loaded.files], family)
        except InputError as error:
            if disk_fault(error) is not None:
                raise
            faults.setdefault(step, {}).setdefault("damaged", str(error))
    return fingerprints
