"""The default text and counts of Pythia, and the papers' text, on a loopback Hub, with a small model of its true
vocabulary; without a Hub."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import transformers
from loopback.datasets import LoopbackDatasets
from loopback.place import TINY, Ended, Machine
from tokenizers import Tokenizer, models, pre_tokenizers

from rtdyn.names import KING_JAMES
from rtdyn.store.run import read_run
from rtdyn.store.settings_file import SETTINGS as RUN_YAML
from rtdyn.store.settings_file import read_settings
from rtdyn.suites.find import load_suites
from rtdyn.sweep.paper import C4
from rtdyn.text.pile_counts import COUNTS_FILE, KNOWN_TOKENS
from rtdyn.text.token_counts import read_counts

PYTHIA = load_suites()["pythia-1.4b"]
DOCUMENTS = 3000
TYPES, LOGITS = 50277, 50304
SUITES = """
suites:
  like-pythia: {{path: {path}, revision: "step{{step}}", schedule: pythia, texts: [pile-validation, pile-10k],
                 frequencies: pile}}
  tiny-elsewhere: {{path: {tiny}, revision: "step{{step}}", schedule: tiny, corpus: "{elsewhere}/b.jsonl",
                    frequencies: token_counts.npy}}
"""
ELSEWHERE = "hf://datasets/nobody/nothing"


def vocabulary() -> list[str]:
    """Token by id: Pythia's where rtdyn knows it by, a word of its own elsewhere."""
    return [KNOWN_TOKENS.get(i, f"w{i}") for i in range(TYPES)]


@cache
def validation_file() -> bytes:
    """Lines as those of the Pile's validation file, of words as frequent as in the Pile; some documents are long."""
    rng, words = np.random.default_rng(0), np.array(vocabulary())
    counts = read_counts(COUNTS_FILE).counts.astype(float)
    lengths = np.minimum(rng.lognormal(5, 1.2, DOCUMENTS).astype(int) + 1, 40_000)
    ids = np.split(rng.choice(TYPES, lengths.sum(), p=counts / counts.sum()), np.cumsum(lengths)[:-1])
    parts = ("Pile-CC", "PubMed Central", "FreeLaw", "Github")
    rows = ({"text": " ".join(words[i]), "meta": {"pile_set_name": parts[k % 4]}} for k, i in enumerate(ids))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def hub() -> LoopbackDatasets:
    hub = LoopbackDatasets()
    scheme, _, path = PYTHIA.corpus.partition("@")
    commit, _, file = path.partition("/")
    repo = scheme.removeprefix("hf://datasets/")
    assert (repo, file) == ("EleutherAI/pile_val_test", "val.jsonl")
    hub.commits[f"{repo}@{commit}"] = {file: validation_file(), "test.jsonl": b"{}"}
    hub.branches[repo, "main"] = commit
    scheme, _, path = C4.partition("@")
    commit, _, file = path.partition("/")
    hub.commits[f"{scheme.removeprefix('hf://datasets/')}@{commit}"] = {file: gzip.compress(validation_file())}
    hub.branches[scheme.removeprefix("hf://datasets/"), "main"] = commit
    hub.put("NeelNanda/pile-10k", {"a.jsonl": validation_file()[:500_000].rpartition(b"\n")[0]})
    return hub


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suites file, beside the folder of a small Pythia."""
    folder = tmp_path_factory.mktemp("suites")
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary())}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    step = folder / "pythia" / "step143000"
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w0").save_pretrained(
        step.parent
    )
    config = transformers.GPTNeoXConfig(
        vocab_size=LOGITS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.GPTNeoXForCausalLM(config).save_pretrained(step)
    file = folder / "suites.yaml"
    file.write_text(SUITES.format(path=step.parent, tiny=TINY, elsewhere=ELSEWHERE))
    return file


@pytest.fixture(scope="module")
def ended(suites: Path, hub: LoopbackDatasets, takes_long: None) -> dict[str, Ended]:
    """Each command's end by the name of its run directory; those without a Hub come after it is closed."""
    usual = ("--analyses", "ablation", "--tolerance", "0.01", "--wandb", "disabled", "--positions-per-rare", "1")
    few = ("--tokens", "4096", "--window", "64", "--min-targets", "10")

    def command(model: str, name: str, *options: str) -> list[str]:
        return ["track", "--model", model, "--steps", "last", "--suites", str(suites), "--out",
                str(suites.parent / name), *usual, *options]  # fmt: skip

    with hub:
        place = Machine(suites.parent, hub.url)
        online = [command("like-pythia", "default"),
                  command("like-pythia", "train", "--corpus", "hf://datasets/NeelNanda/pile-10k", *few),
                  command("like-pythia", "designs", "--preset", "paper", "--rare-targets", "100")]  # fmt: skip
        first = place.track_each(*online)
    wide = (*few, "--rare", "0.5:0.95")
    offline = [command("like-pythia", "default"), command("tiny-elsewhere", "stand-in", *wide),
               command("tiny-elsewhere", "asked", "--corpus", f"{ELSEWHERE}/a.jsonl", *wide)]  # fmt: skip
    then = place.track_each(*offline, HF_HUB_OFFLINE="1")
    return dict(zip(("default", "train", "designs", "again", "stand-in", "asked"), [*first, *then], strict=True))


@pytest.mark.slow
def test_pythia_is_measured_on_the_piles_validation_split_by_its_exact_counts(
    ended: dict[str, Ended], hub: LoopbackDatasets, suites: Path
) -> None:
    assert ended["default"].code == 0, ended["default"].stderr
    said = ended["default"].stderr
    assert f"evaluation text: {PYTHIA.corpus} (commit 05b327037e63)" in said
    assert "held out from training: yes" in said
    assert "frequencies: the Pile, all of its 300,039,168,000 tokens" in said
    assert "class rare: 7,242 types (ranks 41,036 to 48,277)" in said and "elbow" in said
    manifest = read_run(suites.parent / "default").manifest
    text = manifest.evaluation
    assert text is not None and text.held_out == "yes" and "pythia/issues/102" in text.held_out_source
    assert text.corpus_provenance["repo"] == "EleutherAI/pile_val_test" and text.cluster_unit == "documents"
    assert 200 <= manifest.classes["rare"].positions < 220 and 15_000 < text.tokens < 25_000
    # stretches of lines by ranges: what is read is a part of the file, and comes from all over it
    [whole] = (len(files["val.jsonl"]) for files in hub.commits.values() if "val.jsonl" in files)
    assert text.corpus_provenance["bytes"] < whole / 3
    places = [int(place.rpartition(" ")[2].replace(",", "")) for place in text.corpus_provenance["read"]]
    assert min(places) < whole / 4 and max(places) > whole * 3 / 4


@pytest.mark.slow
def test_what_was_read_is_kept_so_that_the_command_goes_on_without_a_hub(ended: dict[str, Ended]) -> None:
    assert ended["again"].code == 0 and "1 of 1 steps are stored already" in ended["again"].stderr


@pytest.mark.slow
def test_without_a_hub_the_king_james_bible_stands_in_and_a_line_says_so(ended: dict[str, Ended], suites: Path) -> None:
    assert ended["stand-in"].code == 0, ended["stand-in"].stderr
    said = ended["stand-in"].stderr
    assert "the King James Bible is measured in its place; --corpus names another text" in said
    assert "evaluation text: king-james, " in said and "held out from training: not checked" in said
    text = read_run(suites.parent / "stand-in").manifest.evaluation
    assert text is not None and (text.corpus, text.held_out) == ("king-james", "not checked")
    assert read_settings(suites.parent / "stand-in" / RUN_YAML)["corpus"] == [KING_JAMES]
    assert "corpus" not in read_settings(suites.parent / "default" / RUN_YAML)


@pytest.mark.slow
def test_a_text_that_was_asked_for_has_no_stand_in(ended: dict[str, Ended], suites: Path) -> None:
    assert ended["asked"].code == 3 and "HF_HUB_OFFLINE is set" in ended["asked"].stderr
    assert not (suites.parent / "asked").exists()


@pytest.mark.slow
def test_text_of_the_training_split_is_told_to_be_that(ended: dict[str, Ended]) -> None:
    assert ended["train"].code == 0, ended["train"].stderr
    said = ended["train"].stderr
    assert "caution: hf://datasets/NeelNanda/pile-10k was part of the training of like-pythia" in said
    assert "first 10,000 documents of the Pile's training split" in said and "held out from training: no" in said


@pytest.mark.slow
def test_the_papers_design_is_measured_beside_ours_and_compared(ended: dict[str, Ended], suites: Path) -> None:
    done = ended["designs"]
    assert done.code == 0, done.stderr
    assert "run 1 of 2: like-pythia-own" in done.stderr and "run 2 of 2: like-pythia-paper" in done.stderr
    own, paper = (read_run(suites.parent / "designs" / f"like-pythia-{d}").manifest for d in ("own", "paper"))
    assert (own.design, paper.design) == ("own", "paper")
    assert own.evaluation is not None and own.evaluation.corpus.startswith(PYTHIA.corpus)
    text = paper.evaluation
    assert text is not None and text.corpus == f"{C4} (commit 1588ec454efa), its first 500 documents"
    assert (text.windows, text.tokens, text.corpus_provenance["documents"]) == (10, 2560, 500)
    # the less frequent half of 50,277 types, up to the elbow, by the query's own token
    assert paper.classes["rare"].ranks == (25139, 48277) and own.classes["rare"].ranks == (41036, 48277)
    assert paper.config["class_by"] == "query" and paper.config["mean_over"] == "all"
    assert "like-pythia at step 143000: the papers' design and rtdyn's" in done.stdout.replace(",", "")
    assert "No verdicts: " in done.stdout and "puts both on one page" in done.stdout
