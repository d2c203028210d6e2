"""Ranks, bands, the elbow, and counts that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdyn.errors import InputError, UsageError
from rtdyn.names import SWEEP
from rtdyn.text import king_james
from rtdyn.text.token_classes import ELBOW_WINDOW, SURE, class_errors, classify, elbow, rare_overlap
from rtdyn.text.token_counts import SampledCounts, TokenCounts, count_texts, read_counts
from rtdyn.text.tokenizer import load_tokenizer
from rtdyn.undefined import Undefined


def counts_of(values: list[int] | np.ndarray) -> TokenCounts:
    return TokenCounts(np.asarray(values, dtype=np.int64), "here", "digest")


def test_ranks_descend_with_ties_by_id_and_padding_has_none() -> None:
    classes = classify(counts_of([5, 9, 5, 0, 7]), ["0.5:1"], n_logits=8)
    assert classes.rank.tolist() == [3, 1, 4, 5, 2, 0, 0, 0]


def test_rare_is_the_least_frequent_fifteen_percent_of_seen_types() -> None:
    values = np.concatenate([np.arange(1000, 0, -1), np.zeros(100)])
    classes = classify(counts_of(values), ["paper-text"], n_logits=1200)
    rare, common = classes.named("rare"), classes.named("common")
    assert classes.end_rank == 1000 and "last type seen" in classes.end_reason
    assert (rare.first, rare.last) == (850, 1000)
    assert np.flatnonzero(rare.types).tolist() == list(range(850, 1000))
    assert np.flatnonzero(common.types).tolist() == list(range(850))


def test_paper_code_and_custom_bands_in_one_pass() -> None:
    classes = classify(counts_of(np.arange(200, 0, -1)), ["paper-text", "paper-code", "mid=0.3:0.6", "0.5:0.9"], 200)
    bands = {c.name: (c.first, c.last) for c in classes.classes}
    assert bands == {
        "rare": (170, 200), "paper_code": (30, 200), "mid": (60, 120), "band_0_5_0_9": (100, 180), "common": (0, 170),
    }  # fmt: skip
    assert classes.classes[0].name == "rare"


def test_a_band_may_end_where_types_count_no_more() -> None:
    values = np.concatenate([np.arange(1000, 0, -1), np.zeros(100)])
    classes = classify(counts_of(values), ["0.5:elbow", "code=0.15:elbow", "paper-code"], n_logits=1200)
    bands = {c.name: (c.first, c.last) for c in classes.classes}
    assert bands == {"rare": (550, 1000), "code": (165, 1000), "paper_code": (165, 1000), "common": (0, 550)}
    with pytest.raises(UsageError, match="would hold no token type"):
        classify(counts_of(values), ["0.95:elbow"], n_logits=1200)


def test_a_share_is_of_the_types_above_the_end_and_15_percent_is_the_rare_class() -> None:
    values = np.concatenate([np.arange(1000, 0, -1), np.zeros(100)])
    classes = classify(counts_of(values), [*SWEEP, "fifteen=15%", "2.5%"], n_logits=1200)
    sizes = {c.name: (c.first, c.last) for c in classes.classes}
    assert sizes == {
        "rare": (850, 1000), "rare_5": (950, 1000), "rare_10": (900, 1000), "rare_20": (800, 1000),
        "rare_30": (700, 1000), "rare_50": (500, 1000), "fifteen": (850, 1000), "band_2_5": (975, 1000),
        "common": (0, 850),
    }  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.integers(0, 50), min_size=30, max_size=200).filter(lambda v: len(set(v)) > 1 and sum(v) > 0))
def test_every_type_is_in_a_class_or_beyond_the_band_and_classes_are_disjoint(values: list[int]) -> None:
    try:
        classes = classify(counts_of(values), ["paper-text"], len(values) + 5)
    except UsageError:
        assert sum(v > 0 for v in values) < 8
        return
    rare, common = classes.named("rare").types, classes.named("common").types
    assert not (rare & common).any() and not (rare | common)[len(values) :].any()
    assert (rare | common).sum() == classes.end_rank
    frequencies = np.pad(values, (0, 5))
    assert frequencies[rare].max() <= frequencies[common].min()


@pytest.mark.parametrize(("tokens", "sure"), [(10**5, False), (10**6, False), (4 * 10**6, True), (10**7, True)])
def test_a_sample_says_how_much_of_its_rare_class_is_right(tokens: int, sure: bool) -> None:
    # by id in no order of frequency, since ties are ordered by id
    share = np.random.default_rng(9).permutation(1 / np.arange(1, 5001))
    rare = classify(counts_of((share * 1e9).astype(np.int64)), ["0.7:0.9"], 5000).named("rare").types
    errors = []
    for seed in range(4):
        drawn = np.random.default_rng(seed).multinomial(tokens, share / share.sum())
        relative = np.divide(1, np.sqrt(drawn), out=np.full(5000, np.inf), where=drawn > 0)
        sample = SampledCounts(relative, {})
        counts = TokenCounts(drawn, "here", "digest", sample)
        classes = classify(counts, ["0.7:0.9"], 5000)
        sampled, expected = classes.named("rare").types, rare_overlap(counts, classes)
        assert expected is not None
        error = class_errors(sample, classes)["rare"]
        assert isinstance(error, float) and (error <= SURE) == sure
        errors.append(expected - (rare & sampled).sum() / (rare | sampled).sum())
    assert 0 <= np.mean(errors) < (0.04 if sure else 0.1), errors


def test_counts_without_standard_errors_say_nothing_of_their_rare_class() -> None:
    classes = classify(counts_of(np.arange(100, 0, -1)), ["0.5:1"], 100)
    whole = SampledCounts(Undefined("the whole corpus was counted"), {})
    for sampled in (None, whole):
        assert rare_overlap(TokenCounts(np.arange(100, 0, -1), "here", "digest", sampled), classes) is None


def test_the_elbow_is_where_a_planted_curve_breaks() -> None:
    ranks = np.arange(1, 50001)
    log_f = 20 - np.log(ranks) - 30 * np.maximum(0, np.log(ranks / 45000))
    found = elbow(np.exp(log_f))
    assert found is not None and abs(found - 45000) <= 100


def test_a_smooth_curve_and_a_small_vocabulary_have_no_elbow() -> None:
    assert elbow(1e6 / np.arange(1, 10001)) is None
    assert elbow(1e6 / np.arange(1, 5001)) is None


def test_the_elbow_slopes_are_those_of_polyfit() -> None:
    rng = np.random.default_rng(0)
    f = np.sort(rng.lognormal(3, 2, size=7000))[::-1] * np.where(np.arange(7000) < 5000, 1, 1e-3)
    x, y = np.log(np.arange(1, 7001)), np.log(f)
    change = [
        abs(
            np.polyfit(x[i : i + ELBOW_WINDOW], y[i : i + ELBOW_WINDOW], 1)[0]
            - np.polyfit(x[i - ELBOW_WINDOW : i], y[i - ELBOW_WINDOW : i], 1)[0]
        )
        for i in range(ELBOW_WINDOW, 7000 - ELBOW_WINDOW + 1)
    ]
    lower = [c if ELBOW_WINDOW + i >= 3500 else -1.0 for i, c in enumerate(change)]
    best = int(np.argmax(lower))
    expected = ELBOW_WINDOW + best if change[best] > np.mean(change) + 3 * np.std(change) else None
    assert elbow(f) == expected


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (["0.9:0.5"], "empty or inverted"),
        (["0.5:0.5"], "empty or inverted"),
        (["0.5:1.2"], "empty or inverted"),
        (["rarest"], "cannot read the band"),
        (["0.5:0.50001"], "would hold no token type"),
        (["0:0.5"], "'common'.*would hold no token type"),
        (["x=0.5:0.9"], "first band is the class `rare`"),
        (["paper-text", "common=0.1:0.2"], "two classes"),
        (["paper-text", "a=0.1:0.2", "a=0.2:0.3"], "two classes"),
        (["paper-text", "A b=0.1:0.2"], "lower-case"),
        (["paper-text", "all=0.1:0.2"], "cannot be called"),
        (["paper-text", "abs_rare=0.1:0.2"], "cannot be called"),
        (["\u0660.5:0.9"], "cannot read the band"),
        (["paper-text", "a=0%"], "between 0% and 100%"),
        (["100%"], "between 0% and 100%"),
        (["paper-text", "a=-5%"], "cannot read the band"),
    ],
)
def test_wrong_bands_are_refused(bands: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        classify(counts_of(np.arange(100, 0, -1)), bands, 100)


def test_counts_longer_than_the_logits_are_refused() -> None:
    with pytest.raises(InputError, match="100 entries but the model has 99 logits"):
        classify(counts_of(np.arange(100, 0, -1)), ["paper-text"], 99)


def test_counts_are_read_from_npy_and_parquet(tmp_path: Path) -> None:
    values = np.array([4, 0, 7, 1])
    np.save(tmp_path / "a.npy", values)
    pl.DataFrame({"count": values}).write_parquet(tmp_path / "b.parquet")
    pl.DataFrame({"token_id": [3, 0, 2], "count": [1, 4, 7]}).write_parquet(tmp_path / "c.parquet")
    read = [read_counts(tmp_path / n) for n in ("a.npy", "b.parquet", "c.parquet")]
    assert all(r.counts.tolist() == [4, 0, 7, 1] for r in read)
    assert len({r.sha256 for r in read}) == 1
    assert read[0].sha256 != read_counts_of(tmp_path, np.array([4, 0, 7, 2])).sha256


def read_counts_of(tmp_path: Path, values: np.ndarray) -> TokenCounts:
    np.save(tmp_path / "values.npy", values)
    return read_counts(tmp_path / "values.npy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1, -2, 3]), r"negative number \(id 1\)"),
        (np.array([3, 3, 3]), "all equal"),
        (np.array([[1, 2], [3, 4]]), "one vector"),
        (np.array([]), "one vector"),
        (np.array([1.5, 2.0]), "whole numbers"),
        (np.array([np.nan, 2.0]), "whole numbers"),
        (np.array(["a", "b"]), "whole numbers"),
        (np.array([np.inf, 2.0]), "whole numbers"),
        (np.array([1j, 2.0]), "whole numbers"),
        (np.array([2**63 + 1, 2], dtype=np.uint64), "whole numbers"),
    ],
)
def test_unusable_counts_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_counts_of(tmp_path, values)


def test_unreadable_counts_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    (tmp_path / "counts.csv").write_text("1,2")
    pl.DataFrame({"n": [1]}).write_parquet(tmp_path / "other.parquet")
    pl.DataFrame({"token_id": [1, 1], "count": [1, 2]}).write_parquet(tmp_path / "twice.parquet")
    pl.DataFrame({"token_id": [1, 10**13], "count": [1, 2]}).write_parquet(tmp_path / "huge.parquet")
    pl.DataFrame({"token_id": [1.0, 2.0], "count": [1, 2]}).write_parquet(tmp_path / "float.parquet")
    for name, message in [("cut.npy", "cannot be read"), ("cut.parquet", "cannot be read"), ("counts.csv", "neither"),
                          ("none.npy", "no counts file"), ("other.parquet", "no column `count`"),
                          ("twice.parquet", "each id once"), ("huge.parquet", "each id once"),
                          ("float.parquet", "must hold whole numbers")]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_counts(tmp_path / name)


@pytest.mark.slow
def test_counting_a_corpus(tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    texts = king_james.held_out_chapters()[:3]
    long = " ".join(texts * 100)
    counts = count_texts([*texts, long], tokenizer, tokenizer.size, "x").counts
    whole = np.concatenate(tokenizer.encode([*texts, long]))
    # a word may fall apart where the long text is cut
    assert np.abs(counts - np.bincount(whole, minlength=tokenizer.size)).sum() <= 8
