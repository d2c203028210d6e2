"""Domains as a user types them: said before the run, stored, grown, shown, and part of the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from text.test_domains import chapters

import rtdyn as package
from rtdyn.cli import main
from rtdyn.store.run import read_run, read_table
from rtdyn.store.settings_file import SETTINGS
from rtdyn.views.report.page import page
from rtdyn.views.report.run_tables import show

SMALL = ("--rare", "0.65:0.95", "--tokens", "4096", "--positions-per-rare", "1", "--min-targets", "20")
SMALL = (*SMALL, "--wandb", "disabled")


def rtdyn(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.mark.slow
def test_domains_are_said_stored_grown_and_shown(tmp_path: Path) -> None:
    law, parts, out = f"law={chapters(tmp_path / 'law.jsonl', 0, 100)}", tmp_path / "parts.jsonl", tmp_path / "run"
    texts = [
        json.loads(line)["text"] for line in Path(chapters(tmp_path / "all.jsonl", 100, 200)).read_text().split("\n")
    ]
    rows = [{"text": text, "meta": {"half": "first"}} for text in texts[:99]]
    rows.append({"text": texts[99][:1500], "meta": {"half": "few"}})
    parts.write_text("\n".join(map(json.dumps, rows)))
    asked = ("--model", "tiny", "--out", out, *SMALL, "--corpus", law, "--domains", f"{parts}::meta.half")
    first = rtdyn("track", *asked, "--steps", "0,512,4000", "--analyses", "ablation")
    assert first.exit_code == 0, first.stderr
    assert "domain law: " in first.stderr and "domain first: " in first.stderr
    assert "domain few is left out with " in first.stderr and "under the 20 of --min-targets" in first.stderr
    run = read_run(out)
    assert list(run.manifest.domains) == ["law", "first"] and list(run.manifest.domains_left_out) == ["few"]
    assert set(read_table(run, "domains")["analysis"]) == {"capture", "ablation", "domains"}

    # the file of the run's options makes the same run again, which then gets curves in its domains too
    one = ("track", "--config", out / SETTINGS, "--steps", "4000", "--analyses")
    grown = rtdyn(*one, "ablation,regimes")
    assert grown.exit_code == 0 and "1 stored step lacks regimes" in grown.stderr, grown.stderr
    stages = [json.loads(line)["seconds"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert all("domains" in seconds for seconds in stages)
    stored = read_table(run, "domains")
    assert "regimes" in set(stored["analysis"])
    further = rtdyn(
        "track", "--config", out / SETTINGS, "--steps", "4000", "--analyses", "ablation,regimes,dimensionality"
    )
    assert further.exit_code == 0, further.stderr
    stages = [json.loads(line)["seconds"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert "dimensionality" in stages[-1] and "domains" not in stages[-1], "domains were measured again for nothing"
    assert read_table(run, "domains").equals(stored)

    other = rtdyn("track", *asked[:-2], "--steps", "4000", "--analyses", "ablation")
    assert other.exit_code == 3 and "was made with other settings: domains law=" in " ".join(other.stderr.split())

    claims = rtdyn("claims", out)
    assert claims.exit_code == 0 and "Domains beside the main text" in claims.stdout
    assert "domain few is left out with" in " ".join(claims.stdout.split())
    written = page([show(read_run(out))], [{}], {})
    assert "<h3>Domains beside the main text</h3>" in written and "domain few is left out with" in written
    drawn = rtdyn("report", out, "--figures", "domains")
    assert drawn.exit_code == 0 and (out / "report" / "domains.png").stat().st_size > 10_000, drawn.stderr
    assert "domain law: " in rtdyn("show", out).stdout
    assert package.open_run(out).domain_summary()["domain"].to_list() == [None, "law", "first"]


@pytest.mark.slow
def test_what_names_no_domain_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    law = chapters(tmp_path / "law.jsonl", 0, 10)
    for args, code, says in (
        (("--domains", f"{law}::meta.half"), 3, "no row has the field 'meta.half'"),
        (("--domains", "piles"), 2, "give pile, or ADDRESS::FIELD"),
        (("--corpus", f"a={law}", "--corpus", f"a={law}"), 2, "two texts are called 'a'"),
        (("--corpus", f"a={law}", "--analyses", "heavytail"), 2, "add ablation to measure domains"),
    ):
        refused = rtdyn("track", "--model", "tiny", "--steps", "0", *SMALL, "--out", tmp_path / "run", *args)
        assert refused.exit_code == code and says in " ".join(refused.stderr.split()), refused.stderr
        assert not (tmp_path / "run").exists()
