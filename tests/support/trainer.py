"""A trainer's process: it saves a small model every so often as trainers do, and deletes all but its last saves.

Each shard is written in pieces with pauses, index and configuration come in the middle, and every third save is first
written under another name. Digests of what was saved go to `digests.json` beside the folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

KEPT = 2


def write_slowly(file: Path, data: bytes, pause: float) -> None:
    """The file in three pieces."""
    third = len(data) // 3 + 1
    with file.open("wb") as handle:
        for start in range(0, len(data), third):
            handle.write(data[start : start + third])
            handle.flush()
            time.sleep(pause)


def save(model: Path, to: Path, step: int, pause: float) -> dict[str, str]:
    """One save of the model in the folder `model`, its weights in two shards; their digests by name."""
    from safetensors.numpy import load_file
    from safetensors.numpy import save as serialised

    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    own = {name: values + step * 1e-4 for name, values in tensors.items()}
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in halves.items() for name in held}}
    to.mkdir()
    digests = {}
    for shard, held in halves.items():
        data = serialised({name: own[name].astype(tensors[name].dtype) for name in held}, {"format": "pt"})
        digests[shard] = hashlib.sha256(data).hexdigest()
        write_slowly(to / shard, data, pause)
        if "00001" in shard:
            shutil.copy(model / "config.json", to)
            (to / "model.safetensors.index.json").write_text(json.dumps(index))
    (to / "optimizer.pt").write_bytes(bytes(100))
    return digests


def main(model: Path, folder: Path, saves: int, every: float) -> None:
    """Saves at steps 10, 20 and so on."""
    digests: dict[int, dict[str, str]] = {}
    for step in range(10, 10 * saves + 1, 10):
        to = folder / f"step{step}"
        if step % 30 == 0:
            aside = folder / f"tmp-step{step}"
            digests[step] = save(model, aside, step, every / 20)
            aside.rename(to)
        else:
            digests[step] = save(model, to, step, every / 20)
        for old in range(10, step - 10 * (KEPT - 1), 10):
            shutil.rmtree(folder / f"step{old}", ignore_errors=True)
        (folder.parent / "digests.json").write_text(json.dumps(digests))
        time.sleep(every / 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
