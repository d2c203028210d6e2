"""Counts of tokens of data sets on a Hub, over real HTTP with the real client (see test_datasets.py)."""

from __future__ import annotations

import gzip
import io
import json
import struct

import numpy as np
import polars as pl
import pytest
from loopback.datasets import Trouble
from support.dataset_client import BLOCK, TINY, HubClient, lines, parquet, sentences, zstandard

from rtdyn.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow  # seconds in all: over HTTP


def shards(blocks: int, types: int, seed: int = 0) -> np.ndarray:
    """Token ids whose blocks differ as documents do: each prefers some types of its own."""
    rng = np.random.default_rng(seed)
    base = 1 / np.arange(1, types + 1)
    mixed = [rng.choice(types, BLOCK, p=(p := base * rng.gamma(0.5, size=types)) / p.sum()) for _ in range(blocks)]
    return np.concatenate(mixed)


def index(code: int) -> bytes:
    return struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, code, 0, 0)


def test_planted_counts_of_token_shards_are_exact(place: HubClient, repo: str) -> None:
    ids = shards(7, 50)
    wanted = np.bincount(ids, minlength=60)
    cut = 3 * BLOCK + 17
    place.hub.put(repo, {f"s-{i}.bin": part.astype("<u2").tobytes() for i, part in enumerate((ids[:cut], ids[cut:]))})
    place.hub.put("o/wide", {"s.bin": ids.astype("<i4").tobytes(), "s.idx": index(4)})
    place.hub.put("o/narrow", {"s.bin": ids.astype("<u2").tobytes(), "s.idx": index(8)})
    more = {"tokens": 10**6, "types": 60}
    for [[counts, se, reason, provenance, _]] in place.do(
        *(("counts", {"address": f"hf://datasets/o/{n}", **more}) for n in (repo.removeprefix("o/"), "wide", "narrow"))
    ):
        assert counts == wanted.tolist() and se is None and "whole" in reason
        assert provenance["whole"] and provenance["tokens"] == len(ids)


def test_shards_that_cannot_be_counted_say_why(place: HubClient, repo: str) -> None:
    ids = shards(3, 50).astype("<u2")
    place.hub.put("o/odd", {"s.bin": ids.tobytes() + b"\0"})
    place.hub.put("o/float", {"s.bin": ids.tobytes(), "s.idx": index(6)})
    place.hub.put("o/noindex", {"s.bin": ids.tobytes(), "s.idx": b"no index at all...."})
    place.hub.put(repo, {"s.bin": ids.tobytes()})
    place.hub.put("o/negative", {"s.bin": (ids.astype("<i4") - 1).tobytes(), "s.idx": index(4)})
    wanted = {
        "odd": "no list of uint16",
        "float": "uint16 or int32",
        "noindex": "no index of token shards",
        repo.removeprefix("o/"): "beyond the tokenizer's 10",
        "negative": "beyond the tokenizer's 10",
    }
    [as_text] = place.do(("evaluation", {"address": f"hf://datasets/{repo}", "blocks": 1}))
    assert "holds token ids and no text" in as_text
    outcomes = place.do(*(("counts", {"address": f"hf://datasets/o/{n}", "tokens": 9, "types": 10}) for n in wanted))
    for sentence, outcome in zip(wanted.values(), outcomes, strict=True):
        assert sentence in outcome


@pytest.mark.slow
def test_sampled_counts_are_unbiased_and_their_errors_honest(place: HubClient, repo: str) -> None:
    ids = shards(200, 40)
    place.hub.put(repo, {"s.bin": ids.astype("<u2").tobytes()})
    seeds = list(range(40))
    ask = {"address": f"hf://datasets/{repo}", "tokens": 20 * BLOCK, "types": 40, "seeds": seeds}
    [results] = place.do(("counts", ask))
    truth = np.bincount(ids, minlength=40) / len(ids)
    found = np.array([r[0] for r in results], dtype=float) / (20 * BLOCK)
    se = found * np.array([r[1] for r in results])
    assert all(r[3]["blocks"] == 20 and not r[3]["whole"] for r in results)
    spread = found.std(axis=0, ddof=1)
    assert np.all(np.abs(found.mean(axis=0) - truth) < 4 * spread / np.sqrt(len(seeds)))
    # without the correction for a finite corpus, errors are up to 5 % too wide at a tenth of it
    assert 0.9 < np.median(se.mean(axis=0) / spread) < 1.25
    assert 0.85 < np.mean(np.abs(found - truth) < 2 * se) < 0.99
    assert len({r[4] for r in results}) == len(seeds)
    # multinomial errors, which take tokens for independent, would be far too small
    assert np.median(spread / np.sqrt(truth * (1 - truth) / (20 * BLOCK))) > 2


def id_rows() -> list[list[int] | None]:
    """Lists of ids as those of pre-tokenised training data, one missing and one empty among them."""
    rng = np.random.default_rng(0)
    return [*(rng.integers(50, size=n).tolist() for n in (2049, 2049, 30, 700)), None, []]


def test_a_column_of_token_ids_is_counted_as_it_is(place: HubClient, repo: str) -> None:
    rows = id_rows()
    wanted = np.bincount([i for row in rows for i in row or ()], minlength=50).tolist()
    objects = b"\n".join(json.dumps({"token_ids": row, "source": "c"}).encode() for row in rows)
    packed = io.BytesIO()
    pl.DataFrame({"uid": range(6), "token_ids": rows}).write_parquet(packed, row_group_size=2)
    files = {"a.jsonl": objects, "b.jsonl.zst": zstandard(objects), "c.json": objects, "d.parquet": packed.getvalue()}
    place.hub.put(repo, files)
    asked = [{"address": f"hf://datasets/{repo}/{name}", "tokens": 10**6} for name in files]
    found = place.do(*(("counts", {**ask, "types": 50, "column": "token_ids"}) for ask in asked))
    for name, [[counts, _, _, provenance, _]] in zip(files, found, strict=True):
        assert counts == wanted and provenance["id_column"] == "token_ids" and provenance["whole"], name
        assert provenance["tokenizer_files_sha256"] is None
    # what was counted is kept
    place.asked()
    again = place.do(("counts", {**asked[0], "types": 50, "column": "token_ids"}))
    assert again[0] == found[0] and place.asked() == []


def test_a_column_that_holds_no_token_ids_is_refused(place: HubClient, repo: str) -> None:
    rows = {"a": {"ids": [1, 2]}, "b": {"ids": "1 2"}, "c": {"ids": [1, 2.5]}, "d": {"ids": [-1]}, "e": [1, 2],
            "f": {"ids": [[1], [2]]}, "g": {"ids": [60]}}  # fmt: skip
    files = {f"{name}.jsonl": json.dumps(row).encode() for name, row in rows.items()}
    files |= {"h.txt": b"1 2", "i.parquet": parquet(["a"], 1), "j.jsonl": files["a.jsonl"]}
    place.hub.put(repo, files)
    refusals = {
        "b.jsonl": "line 1: 'ids' is no list of token ids; name the column after `::`",
        "c.jsonl": "'ids' holds what is no token id",
        "d.jsonl": "'ids' holds what is no token id",
        "e.jsonl": "line 1: no object with token ids",
        "f.jsonl": "'ids' is no list of token ids",
        "g.jsonl": "holds token ids beyond the tokenizer's 50",
        "h.txt": "is no .jsonl or .parquet file",
        "i.parquet": "has no column 'ids' of lists of token ids (its columns: text, other); name it after `::`",
    }
    ask = [("counts", {"address": f"hf://datasets/{repo}/{n}", "tokens": 9, "types": 50, "column": "ids"})
           for n in refusals]  # fmt: skip
    other = ("counts", {"address": f"hf://datasets/{repo}/j.jsonl", "tokens": 9, "types": 50, "column": "tokens"})
    *outcomes, lacking = place.do(*ask, other)
    for wanted, outcome in zip(refusals.values(), outcomes, strict=True):
        assert isinstance(outcome, str) and wanted in outcome and "\n" not in outcome, (wanted, outcome)
    assert "no row has token ids under 'tokens'; name the column after `::`" in lacking


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "b.parquet", "c.jsonl.gz", "d.txt", "e.jsonl.zst"])
def test_text_is_counted_with_the_models_own_tokenizer(place: HubClient, repo: str, name: str) -> None:
    texts = sentences(300)
    forms = {
        "a.jsonl": lines(texts),
        "b.parquet": parquet(texts, 20),
        "c.jsonl.gz": gzip.compress(lines(texts)),
        "d.txt": "\n".join(texts).encode(),
        "e.jsonl.zst": zstandard(lines(texts)),
    }
    place.hub.put(repo, {name: forms[name]})
    address = f"hf://datasets/{repo}/{name}"
    [[whole]] = place.do(("counts", {"address": address, "tokens": 10**6}))
    tokenizer = load_tokenizer(TINY)
    documents = ["\n".join(texts)] if name == "d.txt" else texts
    wanted = np.bincount(np.concatenate(tokenizer.encode(documents)), minlength=tokenizer.size)
    assert whole[0] == wanted.tolist() and whole[3]["whole"]
    if name == "b.parquet":
        [[part]] = place.do(("counts", {"address": address, "tokens": 2000}))
        assert 2000 <= sum(part[0]) < sum(whole[0]) and part[1] is not None and part[3]["blocks"] >= 2


def test_kept_counts_need_no_network_and_stopped_ones_go_on(place: HubClient, offline: HubClient, repo: str) -> None:
    ids = shards(100, 40)
    data = {"s.bin": ids.astype("<u2").tobytes()}
    place.hub.put(repo, data)
    ask = {"tokens": 90 * BLOCK, "types": 40}
    [[unbroken]] = place.do(("counts", {"address": f"hf://datasets/{repo}", **ask}))
    place.hub.put("o/again", data)
    place.asked()
    start = 2 * BLOCK * np.random.default_rng(0).permutation(100)[70]
    place.hub.troubles = [Trouble(f"again/resolve.* bytes={start}-", status=404)]
    again = ("counts", {"address": "hf://datasets/o/again", **ask})
    [stopped] = place.do(again)
    assert "cannot be downloaded" in stopped or "missing" in stopped
    place.asked()
    [[finished]] = place.do(again)
    fetched = [r for name, r in place.asked() if name == "s.bin"]
    # what was counted before the last of sixteen savings is not fetched again
    assert len(fetched) < 45 and finished[0] == unbroken[0] and finished[1] == unbroken[1]
    place.asked()
    assert offline.do(again) == [[finished]] and place.asked() == []


@pytest.mark.slow
def test_troubles_on_the_way_change_nothing(place: HubClient, repo: str) -> None:
    ids = shards(5, 40)
    place.hub.put(repo, {"s.bin": ids.astype("<u2").tobytes()})
    place.hub.troubles = [
        Trouble("/revision/", status=429, headers={"Retry-After": "0"}),
        Trouble("/tree/", status=503),
        Trouble("s.bin", status=429, headers={"Retry-After": "0"}),
        Trouble("s.bin", cut_after=100),
        Trouble("s.bin", status=500),
    ]
    [[result]] = place.do(("counts", {"address": f"hf://datasets/{repo}", "tokens": 10**6, "types": 40}))
    assert result[0] == np.bincount(ids, minlength=40).tolist()
    assert all(trouble.times == 0 for trouble in place.hub.troubles)


def test_many_ranges_go_over_few_connections(place: HubClient, repo: str) -> None:
    place.hub.put(repo, {"s.bin": shards(60, 40).astype("<u2").tobytes()})
    place.asked()
    before = place.hub.connections
    place.do(("counts", {"address": f"hf://datasets/{repo}", "tokens": 10**6, "types": 40}))
    assert len(place.asked()) > 60 and place.hub.connections - before < 20
