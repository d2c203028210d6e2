"""A process that reads data sets of a Hub with the real client, and data sets to plant there."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet
from loopback.datasets import LoopbackDatasets
from loopback.place import hub_environment
from support.hang import HANG

from rtdyn.suites.suite import PACKAGE

TINY = PACKAGE / "data" / "tiny"
BLOCK = 1000
WORKER = """
import itertools, json, sys
from pathlib import Path
from rtdyn.errors import RtdynError
from rtdyn.hub.datasets import dataset_at
from rtdyn.text import hub_counts, hub_documents
from rtdyn.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_files_digest
from rtdyn.undefined import Undefined

tiny, hub_counts.BLOCK_TOKENS = Path(sys.argv[1]), int(sys.argv[2])


def files(address):
    dataset = dataset_at(address)
    return [dataset.commit, [f.name for f in dataset.files]]


def texts(address, stretch=100, blocks=None, seed=0, field="text", where=()):
    found = hub_documents.text_blocks(dataset_at(address), field, seed, stretch, where=where)
    return [text for block in itertools.islice(found, blocks) for text in block.texts]


def evaluation(address, blocks, seed=0, where=(), first=None):
    text = hub_documents.HubText(dataset_at(address), "text", seed, print, where, first)
    list(itertools.islice(text, blocks))
    documents = text.finish()
    return [documents.texts, documents.sha256, text.provenance]


def counts(address, tokens, seeds=(0,), types=None, field="text", column=None):
    tokenizer = load_tokenizer(tiny) if types is None else Tokenizer(None, types, None, None)
    digest = tokenizer_files_digest(tiny)
    results = []
    for seed in seeds:
        dataset = dataset_at(address)
        c = hub_counts.count_dataset(dataset, tokenizer, digest, field, tokens, seed, lambda text: None, column)
        se = c.sampled.relative_se
        se, reason = (None, se.reason) if isinstance(se, Undefined) else (se.tolist(), None)
        results.append([c.counts.tolist(), se, reason, dict(c.sampled.provenance), c.sha256])
    return results


for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        outcome = globals()[name](**arguments)
    except RtdynError as error:
        outcome = f"{type(error).__name__}: {error}"
    print(json.dumps(outcome), flush=True)
"""


@dataclass
class HubClient:
    """A process with a home of Hugging Face's caches and the Hub that it asks, while its context is open."""

    home: Path
    hub: LoopbackDatasets
    more: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(TINY), str(BLOCK)],
            env=self.environment(**self.more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=HANG)
        self._errors.close()

    def environment(self, **more: str) -> dict[str, str]:
        return hub_environment(self.hub.url, self.home, **more)

    def do(self, *operations: tuple[str, dict[str, Any]]) -> list[Any]:
        """What each operation of WORKER gave: its result, or its refusal."""
        assert self._process.stdin is not None and self._process.stdout is not None
        outcomes = []
        for operation in operations:
            self._process.stdin.write(json.dumps(operation) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            if not answer:
                self._errors.seek(0)
                raise AssertionError(self._errors.read())
            outcomes.append(json.loads(answer))
        return outcomes

    def asked(self) -> list[tuple[str, str | None]]:
        """The requests since the last time, which are forgotten."""
        requests = list(self.hub.requests)
        self.hub.requests.clear()
        return requests


def lines(texts: list[str]) -> bytes:
    return b"\n".join(json.dumps({"text": t}).encode() for t in texts)


def zstandard(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


def parquet(texts: list[str], rows: int) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"text": texts, "other": [t[::-1] * 20 for t in texts]}).write_parquet(buffer, row_group_size=rows)
    return buffer.getvalue()


WORDS = ("and", "the", "word", "was", "with", "light", "upon", "waters", "face", "deep", "earth", "heaven", "void")


def sentences(n: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{i}: " + " ".join(draw.choices(WORDS, k=draw.randrange(1, 60))) + " é" for i in range(n)]
