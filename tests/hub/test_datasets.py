"""Data sets on a Hub, over real HTTP with the real client, in processes of their own (see test_repository.py)."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from loopback.datasets import Trouble
from support.dataset_client import BLOCK, HubClient, lines, parquet, sentences, zstandard
from support.hang import HANG
from support.processes import run_python

from rtdyn.store.run import read_run
from rtdyn.text.documents import read_documents

pytestmark = pytest.mark.slow  # seconds in all: over HTTP


def length(asked: str | None) -> int:
    assert asked is not None
    start, stop = asked.removeprefix("bytes=").split("-")
    return int(stop) - int(start) + 1


def test_an_address_means_a_file_a_folder_or_a_pattern(place: HubClient, repo: str) -> None:
    one = lines(["a"])
    commit = place.hub.put(
        repo, {"README.md": b"#", "a.jsonl": one, "d/b.jsonl": one, "d/e/c.jsonl": one, "d/LICENSE": b"x"}
    )
    other = place.hub.put(repo, {"z.jsonl": one}, branch="refs/convert/parquet")
    base = f"hf://datasets/{repo}"
    wanted = {
        f"{base}/a.jsonl": ["a.jsonl"],
        f"{base}": ["a.jsonl", "d/b.jsonl", "d/e/c.jsonl"],
        f"{base}/d": ["d/b.jsonl", "d/e/c.jsonl"],
        f"{base}/d/*.jsonl": ["d/b.jsonl"],
        f"{base}/**/*.jsonl": ["a.jsonl", "d/b.jsonl", "d/e/c.jsonl"],
        f"{base}/*/e": [],
        f"{base}@{commit}/[a-c].jsonl": ["a.jsonl"],
        f"{base}@refs/convert/parquet/z.jsonl": ["z.jsonl"],
        f"{base}@refs%2Fconvert%2Fparquet": ["z.jsonl"],
    }
    found = place.do(*(("files", {"address": address}) for address in wanted))
    for (address, names), outcome in zip(wanted.items(), found, strict=True):
        if names:
            assert outcome == [other if "refs" in address else commit, names], address
        else:
            assert "holds no .parquet" in outcome


def test_what_is_there_under_the_very_name_is_no_pattern(place: HubClient, repo: str) -> None:
    held = ["run [12]/a.jsonl", "run [12]/d/b.jsonl", "run 1/a.jsonl", "run [12]/c[1].jsonl", "run [12]/c1.jsonl"]
    place.hub.put(repo, {name: lines(["a"]) for name in held})
    wanted = {
        "run [12]": ["run [12]/a.jsonl", "run [12]/c1.jsonl", "run [12]/c[1].jsonl", "run [12]/d/b.jsonl"],
        "run [12]/*.jsonl": ["run [12]/a.jsonl", "run [12]/c1.jsonl", "run [12]/c[1].jsonl"],
        "run [12]/c[1].jsonl": ["run [12]/c[1].jsonl"],
        "run [1]/*.jsonl": ["run 1/a.jsonl"],
        "*/a.jsonl": ["run 1/a.jsonl", "run [12]/a.jsonl"],
    }
    found = place.do(*(("files", {"address": f"hf://datasets/{repo}/{path}"}) for path in wanted))
    assert dict(zip(wanted, (names for _, names in found), strict=True)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("size", [1807024, 18070241])
def test_a_pointer_in_place_of_a_file_is_refused_as_such(place: HubClient, size: int) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize {size}\n".encode()
    names = ("a.txt", "b.jsonl", "c.parquet", "d.jsonl.gz", "e.bin")
    asked = []
    for name in names:
        place.hub.put(f"o/{name[0]}-{size}", {name: pointer})
        asked.append(("counts", {"address": f"hf://datasets/o/{name[0]}-{size}", "tokens": 9, "types": 10}))
    for name, outcome in zip(names, place.do(*asked), strict=True):
        assert f"{name} is a Git LFS pointer" in outcome and "its owner has to upload the file itself" in outcome, (
            outcome
        )


def test_an_address_that_cannot_be_used_says_why(place: HubClient, repo: str) -> None:
    place.hub.put(repo, {"a.jsonl": lines(["a"]), "b.txt": b"b", "c.zst": b"c", "e.jsonl": b"", "f.jsonl": b"\n \n"})
    refusals = {
        "hf://datasets/n": "UsageError: cannot read the address",
        "hf://o/n/a.jsonl": "write hf://datasets/OWNER/NAME",
        "hf://datasets/o/none/a.jsonl": "the Hub knows no such repository, or HF_TOKEN may not read it",
        f"hf://datasets/{repo}@gone/a.jsonl": "no such revision; correct the address",
        f"hf://datasets/{repo}/aa.jsonl": "no such file or folder; did you mean a.jsonl",
        f"hf://datasets/{repo}/none/x.jsonl": "missing on the Hub; correct the address",
        f"hf://datasets/{repo}/c.zst": "(it holds c.zst)",
        f"hf://datasets/{repo}/*": "several forms (.jsonl, .txt); name one",
        f"hf://datasets/{repo}/e.jsonl": "empty files only",
        "hf://datasets/o..o/n": "cannot be a Hub repository",
    }
    outcomes = place.do(
        *(("files", {"address": address}) for address in refusals),
        ("evaluation", {"address": f"hf://datasets/{repo}/f.jsonl", "blocks": 9}),
        ("counts", {"address": f"hf://datasets/{repo}/f.jsonl", "tokens": 9, "types": 9}),
        ("texts", {"address": f"hf://datasets/{repo}/a.jsonl", "field": "body"}),
    )
    for wanted, outcome in zip([*refusals.values(), *["holds no text"] * 2, "'body'; name"], outcomes, strict=True):
        assert isinstance(outcome, str) and wanted in outcome and "\n" not in outcome, (wanted, outcome)


@pytest.mark.slow
def test_a_moved_branch_changes_nothing_of_an_address_that_was_read(
    place: HubClient, repo: str, tmp_path: Path
) -> None:
    before = place.hub.put(repo, {"a.jsonl": lines(["old text"])})
    ask = ("evaluation", {"address": f"hf://datasets/{repo}/a.jsonl", "blocks": 9})
    [first] = place.do(ask)
    after = place.hub.put(repo, {"a.jsonl": lines(["new text"])})
    place.asked()
    [second] = place.do(ask)
    assert place.asked() == [] and first == second and first[2]["commit"] == before
    [pinned] = place.do(("texts", {"address": f"hf://datasets/{repo}@{after}/a.jsonl"}))
    assert pinned == ["new text"]
    with HubClient(tmp_path, place.hub) as other:
        [elsewhere] = other.do(ask)
    assert elsewhere[2]["commit"] == after and elsewhere[1] != first[1]


@pytest.mark.slow
def test_every_document_comes_once_whatever_the_block(place: HubClient, repo: str) -> None:
    texts = [*sentences(40), "x" * 3000, *sentences(3, seed=1)]
    place.hub.put(
        repo,
        {
            "lines.jsonl": lines(texts),
            "ended.jsonl": lines(texts) + b"\n\n",
            "two.jsonl.gz": gzip.compress(lines(texts[:20]) + b"\n") + gzip.compress(lines(texts[20:])),
            "two.jsonl.zst": zstandard(lines(texts[:20]) + b"\n") + zstandard(lines(texts[20:])),
            "lines.json": lines(texts),
            "rows.parquet": parquet(texts, 10),
        },
    )
    names = ("lines.jsonl", "ended.jsonl", "two.jsonl.gz", "two.jsonl.zst", "lines.json", "rows.parquet")
    for stretch in (70, 1500, 1 << 20):
        found = place.do(*(("texts", {"address": f"hf://datasets/{repo}/{n}", "stretch": stretch}) for n in names))
        for name, outcome in zip(names, found, strict=True):
            assert isinstance(outcome, list), outcome
            assert Counter(outcome) == Counter(texts), (name, stretch)
        assert found[2] == found[3] == texts


@pytest.mark.slow
def test_the_first_documents_are_read_in_their_order_and_kept(place: HubClient, offline: HubClient, repo: str) -> None:
    texts = sentences(3000)
    forms = {"a.jsonl": lines(texts), "b.jsonl.gz": gzip.compress(lines(texts)), "c.parquet": parquet(texts, 100)}
    place.hub.put(repo, {**forms, "two/1.jsonl": lines(texts[:400]), "two/2.jsonl": lines(texts[400:])})

    def first(count: int, seed: int = 0) -> list[tuple[str, dict[str, Any]]]:
        names = (*forms, "two/*.jsonl")
        options = {"blocks": 999, "seed": seed, "first": count}
        return [("evaluation", {"address": f"hf://datasets/{repo}/{name}", **options}) for name in names]

    found = place.do(*first(700))
    for documents, digest, provenance in found:
        assert documents == texts[:700] and digest == found[0][1] and provenance["documents"] == 700
        assert provenance["bytes"] < len(forms["a.jsonl"]) / 2
    place.asked()
    assert offline.do(*first(700, seed=5)) == found and place.asked() == []
    assert [documents for documents, _, _ in place.do(*first(9), *first(5000))] == [texts[:9]] * 4 + [texts] * 4


def test_zstandard_is_read_no_further_than_is_asked_for(place: HubClient, repo: str) -> None:
    texts = [f"{i} " + " ".join(map(str, np.random.default_rng(i).integers(10**9, size=100))) for i in range(12_000)]
    packed = zstandard(lines(texts))
    assert len(packed) > 5 << 20
    place.hub.put(repo, {"val.jsonl.zst": packed})
    place.asked()
    [some] = place.do(("texts", {"address": f"hf://datasets/{repo}/val.jsonl.zst", "stretch": 64 << 10, "blocks": 3}))
    assert 200 < len(some) < 400 and some == texts[: len(some)]
    assert sum(length(asked) for name, asked in place.asked() if name == "val.jsonl.zst") == 4 << 20


def test_what_is_cut_off_or_no_lines_is_one_sentence(place: HubClient, repo: str) -> None:
    packed = {"gz": gzip.compress(lines(sentences(300))), "zst": zstandard(lines(sentences(300)))}
    files = {f"half.jsonl.{form}": data[: len(data) // 2] for form, data in packed.items()}
    files |= {f"other.jsonl.{form}": b"no such thing" * 20 for form in packed}
    files |= {"array.json": json.dumps([{"text": "a"}] * 3).encode(), "pretty.json": b'{\n "text": "a"\n}'}
    place.hub.put(repo, files)
    refusals = {
        "half.jsonl.gz": "half.jsonl.gz ends inside its gzip stream; name another file",
        "half.jsonl.zst": "half.jsonl.zst ends inside its Zstandard stream; name another file",
        "other.jsonl.gz": "is not a readable gzip file",
        "other.jsonl.zst": "is not a readable Zstandard file",
        "array.json": "array.json begins a JSON array; write its rows as lines of JSON",
        "pretty.json": "line 1: not JSON",
    }
    outcomes = place.do(*(("texts", {"address": f"hf://datasets/{repo}/{name}"}) for name in refusals))
    for wanted, outcome in zip(refusals.values(), outcomes, strict=True):
        assert isinstance(outcome, str) and wanted in outcome and "\n" not in outcome, (wanted, outcome)


def test_a_repositorys_own_json_is_no_text_beside_files_of_another_form(place: HubClient, repo: str) -> None:
    place.hub.put(repo, {"dataset_infos.json": b"{}", "d/a.jsonl": lines(["a"]), "e/b.json": lines(["b"])})
    base = f"hf://datasets/{repo}"
    found = place.do(*(("files", {"address": address}) for address in (base, f"{base}/e", f"{base}/e/b.json")))
    assert [names for _, names in found] == [["d/a.jsonl"], ["e/b.json"], ["e/b.json"]]


@pytest.mark.slow
def test_blocks_come_in_an_order_that_the_seed_decides(place: HubClient, repo: str) -> None:
    texts = sentences(60)
    place.hub.put(repo, {"a.jsonl": lines(texts), "b.parquet": parquet(texts, 5)})
    for name in ("a.jsonl", "b.parquet"):
        ask = [("texts", {"address": f"hf://datasets/{repo}/{name}", "seed": seed}) for seed in (1, 1, 2)]
        one, same, other = place.do(*ask)
        assert one == same != other and sorted(one) == sorted(other) == sorted(texts)


def test_plain_text_reads_as_the_file_does(place: HubClient, repo: str, tmp_path: Path) -> None:
    text = "\n".join(sentences(50))
    place.hub.put(repo, {"a.txt": text.encode(), "b.txt.gz": gzip.compress(text.encode())})
    (tmp_path / "a.txt").write_text(text)
    outcomes = place.do(
        *(("evaluation", {"address": f"hf://datasets/{repo}/{n}", "blocks": 9}) for n in ("a.txt", "b.txt.gz"))
    )
    local = read_documents(str(tmp_path / "a.txt"))
    assert all(outcome[:2] == [list(local.texts), local.sha256] for outcome in outcomes)


def test_text_from_windows_reads_as_the_file_does(place: HubClient, repo: str, tmp_path: Path) -> None:
    text = "\n".join(sentences(50))
    data = ("\ufeff" + text.replace("\n", "\r\n")).encode()
    place.hub.put(repo, {"a.txt": data, "b.txt.gz": gzip.compress(data), "c.jsonl": b"\xef\xbb\xbf" + lines([text])})
    (tmp_path / "a.txt").write_bytes(data)
    asked = [("texts", {"address": f"hf://datasets/{repo}/{n}", "stretch": 1 << 20}) for n in ("a.txt", "b.txt.gz")]
    in_parts = ("texts", {"address": f"hf://datasets/{repo}/b.txt.gz", "stretch": 100})
    *whole, parts, rows = place.do(*asked, in_parts, ("texts", {"address": f"hf://datasets/{repo}/c.jsonl"}))
    assert whole == [[text], [text]] == [list(read_documents(str(tmp_path / "a.txt")).texts)] * 2
    assert len(parts) > 2 and "\n".join(parts) == text and rows == [text]


def test_every_type_of_text_column_is_read(place: HubClient, repo: str) -> None:
    texts = sentences(6)
    arrays = {
        "dictionary": pa.array(texts).dictionary_encode(),
        "large": pa.array([*texts, None], pa.large_string()),
        "view": pa.array(texts, pa.string_view()),
        "binary": pa.array([t.encode() for t in texts], pa.binary()),
        "latin": pa.array([b"caf\xe9"], pa.binary()),
        "numbers": pa.array([1, 2]).dictionary_encode(),
    }
    for name, array in arrays.items():
        pyarrow.parquet.write_table(pa.table({"text": array}), buffer := io.BytesIO())
        place.hub.put(f"{repo}-{name}", {"a.parquet": buffer.getvalue()})
    *found, latin, numbers = place.do(*(("texts", {"address": f"hf://datasets/{repo}-{n}"}) for n in arrays))
    assert found == [texts] * 4
    assert "row group 0 holds bytes that are not UTF-8 text" in latin and "no text column 'text'" in numbers


def test_rows_of_json_without_text_are_passed_over(place: HubClient, repo: str) -> None:
    rows = [b'{"text": null}', b'{"other": 1}', b'{"text": "one"}', b'{"text": ""}', b'{"text": "two"}']
    place.hub.put(repo, {"a.jsonl": b"\n".join(rows), "b.jsonl": b'{"other": 1}\n' * 5000})
    asked = [("texts", {"address": f"hf://datasets/{repo}/a.jsonl", "stretch": n}) for n in (1, 20, 1000)]
    found = place.do(*asked, ("texts", {"address": f"hf://datasets/{repo}/b.jsonl", "stretch": 16000}))
    assert [sorted(texts) for texts in found[:3]] == [["one", "two"]] * 3
    assert "no row has a text under 'text'; name the column with --text-field" in found[3]
    assert sum(name == "b.jsonl" for name, _ in place.asked()) < 4, "it is not read to its end"


def test_only_what_is_asked_for_is_fetched_and_kept(place: HubClient, offline: HubClient, repo: str) -> None:
    texts = sentences(4000)
    data = parquet(texts, 100)
    place.hub.put(repo, {"a.parquet": data})
    ask = {"address": f"hf://datasets/{repo}/a.parquet"}
    [one] = place.do(("evaluation", {**ask, "blocks": 1}))
    fetched = sum(length(r) for name, r in place.asked() if name == "a.parquet")
    assert fetched < len(data) / 5 and len(one[0]) == 100 and len(one[2]["read"]) == 1
    [two] = place.do(("evaluation", {**ask, "blocks": 2}))
    assert two[0][:100] == one[0] and len(two[0]) == 200
    place.asked()
    again = offline.do(("evaluation", {**ask, "blocks": 1}), ("evaluation", {**ask, "blocks": 2}))
    assert again == [one, two] and place.asked() == []


@pytest.mark.slow
def test_rows_are_chosen_by_nested_fields(place: HubClient, repo: str) -> None:
    parts = ("FreeLaw", "Pile-CC", "Github")
    texts = sentences(90)
    rows = [{"text": t, "meta": {"pile_set_name": parts[i % 3]}, "n": i} for i, t in enumerate(texts)]
    objects = b"\n".join(json.dumps(row).encode() for row in rows)
    packed = io.BytesIO()
    pl.DataFrame(rows).write_parquet(packed, row_group_size=20)
    place.hub.put(repo, {"a.jsonl": objects, "b.jsonl.zst": zstandard(objects), "c.parquet": packed.getvalue()})
    base = f"hf://datasets/{repo}"
    law = ["meta.pile_set_name=FreeLaw"]
    for name in ("a.jsonl", "b.jsonl.zst", "c.parquet"):
        ask = {"address": f"{base}/{name}", "stretch": 700}
        chosen, one, none, lacking = place.do(
            ("texts", {**ask, "where": law}),
            ("texts", {**ask, "where": [*law, "n=3"]}),
            ("texts", {**ask, "where": ["meta.pile_set_name=Freelaw"]}),
            ("texts", {**ask, "where": ["meta.kind=x"]}),
        )
        assert Counter(chosen) == Counter(texts[::3]) and one == [texts[3]], name
        assert "none of 90 rows has meta.pile_set_name=Freelaw (there are " in none and "did you mean FreeLaw?" in none
        assert "no row has the field 'meta.kind'; correct --text-where" in lacking
    kept, other, whole = place.do(
        *(("evaluation", {"address": f"{base}/a.jsonl", "blocks": 99, "where": w}) for w in (law, law, []))
    )
    assert kept == other and Counter(kept[0]) == Counter(texts[::3]) and Counter(whole[0]) == Counter(texts)
    wrong = place.do(("texts", {"address": f"{base}/c.parquet", "where": ["kind=x"]}),
                     ("evaluation", {"address": f"{base}/a.jsonl", "blocks": 1, "where": ["meta"]}))  # fmt: skip
    assert "has no column 'kind' (its columns: text, meta, n); correct --text-where" in wrong[0]
    assert "UsageError: cannot read --text-where 'meta'; write FIELD=VALUE" in wrong[1]


def test_what_the_hub_refuses_is_a_sentence(place: HubClient, offline: HubClient) -> None:
    for repo in ("gated", "gone", "wrong", "whole"):
        place.hub.put(f"o/{repo}", {"a.txt": b"some text", "s.bin": b"\1\0" * 3 * BLOCK})
    place.hub.troubles = [
        Trouble("o/gated/resolve", times=9, status=403, headers={"X-Error-Code": "GatedRepo"}),
        Trouble("o/gone/resolve", times=9, status=404, headers={"X-Error-Code": "EntryNotFound"}),
        Trouble("o/wrong/resolve", times=9, wrong_bytes=True),
        Trouble("o/whole/resolve", times=9, ignore_range=True),
    ]
    outcomes = place.do(
        ("texts", {"address": "hf://datasets/o/gated/a.txt"}),
        ("texts", {"address": "hf://datasets/o/gone/a.txt"}),
        ("texts", {"address": "hf://datasets/o/wrong/a.txt"}),
        ("counts", {"address": "hf://datasets/o/whole/s.bin", "tokens": 9, "types": 9}),
    )
    sentences = ("is gated; accept its terms", "missing on the Hub", "differs from the digest", "asked for 2,000 bytes")
    for wanted, outcome in zip(sentences, outcomes, strict=True):
        assert wanted in outcome and "\n" not in outcome
    [alone] = offline.do(("texts", {"address": "hf://datasets/o/gone/s.txt"}))
    assert "not in the cache and HF_HUB_OFFLINE is set" in alone


@pytest.mark.slow
def test_a_run_on_a_data_set_resumes_without_a_network_and_says_what_it_read(
    place: HubClient, repo: str, tmp_path: Path
) -> None:
    texts = [" ".join(sentences(6, seed=i)) for i in range(200)]
    first = place.hub.put(repo, {"a.parquet": parquet(texts, 20)})
    address = f"hf://datasets/{repo}/a.parquet"
    command = [
        *("-m", "rtdyn.cli", "track", "--model", "tiny", "--steps", "4000", "--out", tmp_path / "run"),
        *("--corpus", address, "--frequencies", "corpus", "--frequency-tokens", "9000", "--rare", "0.005:0.02"),
        *("--tokens", "2000", "--window", "32", "--min-targets", "10", "--positions-per-rare", "1"),
        *("--analyses", "ablation", "--tolerance", "0.01", "--wandb", "disabled"),
    ]

    def track(**env: str) -> subprocess.CompletedProcess[str]:
        return run_python(command, env=place.environment(**env), timeout=HANG)

    done = track()
    assert done.returncode == 0, done.stderr
    assert f"evaluation text: {address} (commit {first[:12]})" in done.stderr
    assert "row groups, drawn at random" in done.stderr and "relative standard error" in done.stderr
    manifest = read_run(tmp_path / "run").manifest
    assert manifest.evaluation is not None and manifest.frequencies is not None
    read, counted = manifest.evaluation.corpus_provenance, manifest.frequencies.provenance
    assert read["commit"] == counted["commit"] == first and 1 <= len(read["read"]) < 10
    assert counted["tokens"] >= 9000 and counted["blocks"] >= 2 and not counted["whole"]
    assert manifest.frequencies.median_relative_se["common"].value > 0
    overlap = manifest.frequencies.rare_overlap
    assert overlap is not None and f"at most {overlap:.2f} of the types in it" in done.stderr
    place.hub.put(repo, {"a.parquet": parquet(texts[::-1], 20)})
    again = track(HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and "1 of 1 steps are stored already" in again.stderr, again.stderr
    assert read_run(tmp_path / "run").manifest.config == manifest.config
    # the moved branch, where nothing was kept, is another run
    elsewhere = track(HF_HOME=str(tmp_path / "elsewhere"))
    assert elsewhere.returncode == 3 and "made with other settings: corpus" in elsewhere.stderr
