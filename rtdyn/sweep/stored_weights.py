"""Whether the weights of stored steps are still those of the suite."""

from __future__ import annotations

from collections.abc import Mapping

from rtdyn.checkpoints.checkpoint import sha256_of
from rtdyn.checkpoints.local import step_folder
from rtdyn.errors import InputError
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.run import Run, table_file
from rtdyn.store.schema import TABLES
from rtdyn.suites.suite import SuiteSpec


def check_stored(suite: SuiteSpec, run: Run, stored: Mapping[int, CheckpointRecord]) -> None:
    """Raises InputError if the weights of a stored step of a folder suite have changed since it was analysed.

    Only weight files that were touched since their results were written are hashed. A Hub revision is fixed by the
    commit that is stored.
    """
    for step, record in stored.items():
        if suite.repo is None and step in suite.steps:
            folder, analysed = step_folder(suite, step), table_file(run, TABLES[0], step).stat().st_mtime
            for name, digest in record.digests.items():
                file = folder / name
                # ctime, as a copy may keep the mtime of what it was copied from
                if not file.is_file() or (file.stat().st_ctime > analysed and sha256_of(file) != digest):
                    raise InputError(f"{file} is not what step {step} in {run.path} was made from; give another --out")
