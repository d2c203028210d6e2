"""The page of a report: what it says, what it escapes, and how it behaves in a browser."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.browser import Browser, chromium
from support.synthetic import synthetic_run

import rtdyn.views.report
from rtdyn.judge.claims import CLAIMS
from rtdyn.judge.observations import read_judged
from rtdyn.judge.scorecard import scorecard
from rtdyn.store.schema import AT_EDGE
from rtdyn.undefined import Undefined
from rtdyn.views.report.opening import opening, published, verdicts_by_run
from rtdyn.views.report.page import inline_json
from rtdyn.views.report.page import page as page_of
from rtdyn.views.report.page_data import numbers, page_data
from rtdyn.views.report.panels import judged_panels
from rtdyn.views.report.plots.influence import thinned
from rtdyn.views.report.run_tables import RunTables, show

pytestmark = pytest.mark.slow  # seconds in all: whole pages are made

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>'\"&amp;"
TEXT = {"corpus": "some-text", "corpus_sha256": "c0ffee", "windows": 1, "tokens": 8, "kept_positions": 7, "sha256": "f",
        "clusters": 1, "cluster_unit": "documents"}  # fmt: skip
AUDIT = {
    "made": "2026-01-02T03:04:05+00:00",
    "steps": {
        "0": {"verdict": "sound", "reasons": [], "left_out": False},
        "4": {"verdict": "duplicate", "reasons": ["it holds the weights of step 2"], "left_out": True},
        "9": {"verdict": "missing", "reasons": ["the branch is not there"], "left_out": False},
    },
    "findings": ["3 branches that the schedule does not know"],
    "passed_over": {"9": "the branch is not there"},
}
needs_browser = pytest.mark.skipif(chromium() is None, reason="there is no Chromium or Chrome on this machine")


def made(path: Path, **manifest: Any) -> Path:
    """The page of a synthetic run with this in its manifest."""
    run = synthetic_run(path, 14, 120, left_out={4: manifest.pop("why", "it repeats step 2")})
    file = run / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | manifest))
    return written([run], path / "page.html")


def written(paths: list[Path], file: Path) -> Path:
    """The page alone: its figures take longer."""
    shown = [show(read_judged(path)) for path in paths]
    judged = [judged_panels(one) if one.has_trajectories else {} for one in shown]
    file.write_text(page_of(shown, judged, {"spectra": "no reason"}))
    return file


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(
        tmp_path_factory.mktemp("runs") / "run",
        audit=AUDIT,
        command="rtdyn track --model synthetic --steps all",
        evaluation={**TEXT, "corpus_provenance": {"commit": "abc123"}},
        versions={"torch": "9.8.7"},
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a run whose every text was written by an attacker."""
    verdict = {"verdict": "suspect", "reasons": [HOSTILE], "left_out": True}
    token_class = {"band": HOSTILE, "ranks": [1, 2], "types": 2, "positions": 3, "measured": 3}
    return made(
        tmp_path_factory.mktemp("runs") / "run",
        suite=HOSTILE,
        location=HOSTILE,
        command=HOSTILE,
        why=HOSTILE,
        classes={HOSTILE: token_class},
        evaluation={**TEXT, "corpus": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}},
        audit={"made": HOSTILE, "steps": {7: verdict}, "findings": [HOSTILE], "passed_over": {}},
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runs = [synthetic_run(folder / name, 5, 60, suite=name, seed=i) for i, name in enumerate(("one", "two"))]
    return written(runs, folder / "both.html")


@pytest.mark.slow
def test_the_page_says_where_its_numbers_come_from(page: Path) -> None:
    text = page.read_text()
    for said in ("rtdyn track --model synthetic --steps all", "some-text", "commit abc123", "torch 9.8.7", "step4"):
        assert said in text, said


def test_the_audit_and_the_steps_left_out_are_on_the_page(page: Path) -> None:
    text = page.read_text()
    assert "Audit of 2026-01-02T03:04:05+00:00: 1 of 3 audited steps are sound" in text
    assert "<li>step 4, duplicate: it holds the weights of step 2</li>" in text
    assert "<li>step 9, missing: the branch is not there, passed over</li>" in text
    assert "<li>3 branches that the schedule does not know</li>" in text
    assert "<li>step 4: it repeats step 2</li>" in text


def test_the_page_holds_nothing_to_load(page: Path) -> None:
    own = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)
    own = re.sub(r'<a href="https://arxiv\.org/[^"]+">', "", own)  # links load nothing
    assert not re.search(r"<link|<script[^>]*\ssrc|<img|@import|url\(|https?://", own)
    assert "default-src 'none'" in own


def test_every_table_has_headers_that_a_reader_hears_and_scrolls_by_keyboard() -> None:
    template = (Path(rtdyn.views.report.__file__).parent / "assets" / "page.html").read_text()
    assert template.count("<th ") == template.count("<th scope=") == len(re.findall(r"<th\b", template))
    assert template.count('class="scroll"') == template.count('class="scroll" tabindex="0"') > 5


def test_the_page_opens_in_words_and_links_claims_to_their_sources(page: Path) -> None:
    text = page.read_text()
    opening = text[text.index('class="opening"') :]
    assert re.findall(r"<dt>(.*?)</dt>", opening)[:5] == [
        "Question",
        "Model and text",
        "Targets",
        "What came out",
        "What would decide the rest",
    ]
    assert "The text is some-text: 8 tokens in 1 window, of 1 independent document." in opening
    claims = [claim.text for claim in CLAIMS if claim.name != "localised-final"]  # of runs with earlier layers
    assert "verdicts on claims at step 3,000" in opening
    for claim in claims:
        assert claim.replace(">", "&gt;").replace("<", "&lt;").replace("'", "&#39;") in text, claim
    assert '<a href="https://arxiv.org/abs/2509.21163">[DS] §4.1</a>' in text


def test_compared_runs_have_their_verdicts_side_by_side(tmp_path: Path) -> None:
    """A run of too few steps for a scorecard has a dash."""
    runs = [
        synthetic_run(tmp_path / name, steps, 60, suite=name, seed=i)
        for i, (name, steps) in enumerate((("one", 5), ("two", 6), ("three", 2)))
    ]
    rows = [scorecard(read_judged(path)) for path in runs[:2]]
    table = dict(verdicts_by_run([*rows, Undefined("too few")]))
    for row in rows[1]:
        layer = {None: "", 4: " (layer before)", 5: " (last layer)"}[row.layer]
        assert table[row.text + layer][1:] == [row.verdict, "—"]
    text = written(runs, tmp_path / "three.html").read_text()
    assert '<th scope="col">one</th><th scope="col">two</th><th scope="col">three</th>' in text
    assert text.count('<td class="—">—</td>') == len(rows[0])


def test_a_claim_of_the_last_layer_and_of_earlier_ones_names_them_all(tmp_path: Path) -> None:
    row = next(r for r in scorecard(read_judged(synthetic_run(tmp_path, 5, 60))) if r.claim == "no-plateau-common")
    supported = [replace(row, verdict="supported", layer=layer) for layer in (None, 0)]
    out = dict(opening(show(read_judged(tmp_path)), supported))["What came out"]
    assert "Supported: Common targets: no plateau (last layer, layer 0)." in out


@pytest.mark.slow
def test_runs_of_several_seeds_or_sizes_have_their_numbers_on_the_page(tmp_path: Path) -> None:
    loss = f"{9 - 0.5 * math.log1p(8):.4g}"
    seeds = [synthetic_run(tmp_path / f"s{i}", 5, 60, suite=f"s-seed{i}") for i in range(3)]
    cells = table_of(written(seeds, tmp_path / "seeds.html").read_text(), "seeds")
    assert cells["Loss, nats", "rare"] == ["8", loss, f"{loss} to {loss}", "0 of 3", "—"]
    assert cells["Modularity at equal edges, Q", "top"][3:] == ["0 of 3", "—"]
    sizes = [synthetic_run(tmp_path / n, 5, 60, suite=f"s-{n}") for n in ("160m", "70m", "1b")]
    text = written(sizes, tmp_path / "sizes.html").read_text()
    ends = f"{loss} ({8.9 - 0.5 * math.log1p(8):.3g} to {9.1 - 0.5 * math.log1p(8):.3g})"
    assert table_of(text, "sizes")["Loss, nats", "rare"] == [f"{8 * 2**21:.3g}", ends, ends, ends]
    assert '<th scope="col">s-70m</th><th scope="col">s-160m</th><th scope="col">s-1b</th>' in text


def table_of(page: str, section: str) -> dict[tuple[str, str], list[str]]:
    """A section's table: by the first two cells of a row, the others."""
    part = page.partition(f'<section id="{section}">')[2].partition("</section>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", part)[1:]]
    return {(row[0], row[1]): row[2:] for row in rows}


def test_every_header_of_a_table_says_what_it_heads(page: Path) -> None:
    own = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)
    assert re.findall(r"<th(?=[ >])(?![^>]*scope=)[^>]*>", own) == []


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("[DS] §4.1", [("[DS] §4.1", "https://arxiv.org/abs/2509.21163")]),
        ("[XX] §2", [("[XX] §2", "")]),
        ("[DS] §4.1; METHODS §3(d)", [("[DS] §4.1", "https://arxiv.org/abs/2509.21163"), ("; METHODS §3(d)", "")]),
    ],
)
def test_a_source_is_a_link_where_its_paper_is_known(source: str, parts: list[tuple[str, str]]) -> None:
    assert published(source) == parts


def test_text_from_outside_is_escaped_everywhere(hostile: Path) -> None:
    text = hostile.read_text()
    assert "window.hacked=1" in text
    assert "<script>window.hacked" not in text
    assert "<img src=x" not in text
    assert text.count("</script>") == 3


def test_no_text_ends_the_element_that_holds_the_data() -> None:
    data = {HOSTILE: [HOSTILE, "<!--", "]]>"]}
    text = inline_json(data)
    assert not set(text) & set("<>&")
    assert json.loads(text) == data


def test_the_data_never_hold_what_json_lacks() -> None:
    assert numbers([1.23456, float("nan"), float("inf"), None, 0.0, -1e-9]) == [1.235, None, None, None, 0.0, -1e-9]
    with pytest.raises(ValueError, match="not JSON compliant"):
        inline_json([float("nan")])


@pytest.mark.parametrize(("count", "most"), [(1, 160), (160, 160), (161, 160), (8192, 160), (20480, 64)])
def test_thinned_ranks_keep_the_first_and_the_last(count: int, most: int) -> None:
    ranks = thinned(count, most)
    assert ranks[0] == 1
    assert ranks[-1] == count
    assert len(ranks) <= most
    assert (np.diff(ranks) > 0).all()


def at_edge(path: Path) -> RunTables:
    """A run whose top ends at the last rank that the fit can find, at every step."""
    shown = show(read_judged(synthetic_run(path, 5, 60)))
    ends = (pl.col("analysis") == "regimes") & pl.col("metric").is_in(["r1", "plateau_fraction"])
    return replace(
        shown,
        metrics=shown.metrics.with_columns(
            status=pl.when(ends).then(pl.lit(AT_EDGE)).otherwise("status"),
            ci_high=pl.when(ends).then(None).otherwise("ci_high"),
        ),
    )


def test_the_data_say_on_which_side_a_size_is_open(tmp_path: Path) -> None:
    shown = at_edge(tmp_path / "run")
    sizes = page_data([shown], [judged_panels(shown)])["runs"][0]["regimes"]["rare"]
    assert sizes["edge"] == ["≥"] * 5
    assert sizes["high"] == [None] * 5 and None not in sizes["low"]
    whole = show(shown.run)
    assert page_data([whole], [judged_panels(whole)])["runs"][0]["regimes"]["rare"]["edge"] == [""] * 5


@needs_browser
def test_a_size_that_is_not_known_is_not_said_as_one(tmp_path: Path) -> None:
    shown = at_edge(tmp_path / "run")
    (tmp_path / "page.html").write_text(page_of([shown], [judged_panels(shown)], {}))
    program = chromium()
    assert program is not None
    with Browser(program) as browser:
        browser.open(tmp_path / "page.html")
        browser.draw_all(1180)
        assert "top ≥ " in value(browser, "document.getElementById('sizes-rare-words').textContent")
        top = value(browser, "document.getElementById('sizes-rare').data[0]")
        assert top["marker"]["symbol"] == ["circle-open"] * 5
        assert all("%: top" not in text and ": ≥ " in text and " to " not in text for text in top["text"])
        assert value(browser, "csvText(told.get('sizes-rare'))").split("\n")[1].split(",")[-2] == "≥"


@pytest.fixture(scope="module", params=[(1180, "light"), (390, "dark")], ids=["desktop", "phone"])
def opened(request: pytest.FixtureRequest, page: Path) -> Iterator[Browser]:
    """The page in a browser, every chart drawn."""
    width, theme = request.param
    program = chromium()
    assert program is not None
    with Browser(program, width, 900, theme) as browser:
        browser.open(page)
        browser.draw_all(width)
        yield browser


def value(browser: Browser, expression: str) -> Any:
    return browser.evaluate(expression)


@needs_browser
class TestInABrowser:
    def test_every_chart_is_drawn(self, opened: Browser) -> None:
        count = value(opened, "document.querySelectorAll('.chart').length")
        assert count > 15
        drawn = """[...document.querySelectorAll('.chart')]
            .filter((chart) => chart.querySelector('.trace, .heatmaplayer image')).length"""
        assert value(opened, drawn) == count

    def test_nothing_is_requested_and_nothing_complains(self, opened: Browser) -> None:
        assert len(opened.requests) == 1
        assert opened.requests[0].startswith("file://")
        assert opened.complaints == []

    def test_the_page_is_not_wider_than_the_window(self, opened: Browser) -> None:
        assert value(opened, "document.documentElement.scrollWidth <= innerWidth")

    def test_the_slider_moves_the_curves_the_table_and_the_attention(self, opened: Browser) -> None:
        look = """JSON.stringify([document.getElementById('step-name').textContent,
            document.getElementById('neuron-table').textContent,
            ...['curve-rare', 'attention-chart'].map((id) => document.getElementById(id).data.map((t) => t.y))])"""
        before = json.loads(value(opened, look))
        slider = "document.getElementById('step')"
        move = f"{slider}.value = {{}}; {slider}.dispatchEvent(new Event('input'))"
        value(opened, move.format(0))
        opened.wait_for("document.getElementById('table-step').textContent === '0'")
        after = json.loads(value(opened, look))
        assert all(a != b for a, b in zip(before, after, strict=True))
        value(opened, move.format(3))
        opened.wait_for("document.getElementById('step-name').textContent === '4 ✕'")

    @pytest.mark.parametrize(
        ("choice", "looked_at"),
        [
            ("curve-x", "document.getElementById('curve-rare').layout.xaxis.type"),
            ("curve-y", "document.getElementById('curve-common').layout.yaxis.type"),
            ("attention-y", "document.getElementById('attention-chart').layout.yaxis.type"),
            ("x", "JSON.stringify(document.getElementById('panel-loss').data[0].x)"),
            ("y", "JSON.stringify(document.getElementById('panel-influence-max').layout.yaxis.type)"),
            ("map", "JSON.stringify(document.getElementById('map').data[0].z[0])"),
        ],
    )
    def test_a_choice_changes_its_charts_and_comes_back(self, opened: Browser, choice: str, looked_at: str) -> None:
        buttons = f"document.querySelectorAll('[data-choice=\"{choice}\"] button')"
        pressed = f"[...{buttons}].map((button) => button.getAttribute('aria-pressed')).join()"
        first = value(opened, looked_at)
        assert value(opened, pressed).startswith("true,false")
        value(opened, f"{buttons}[1].click()")
        assert value(opened, pressed).startswith("false,true")
        assert value(opened, looked_at) != first
        value(opened, f"{buttons}[0].click()")
        assert value(opened, looked_at) == first

    def test_every_chart_has_words_and_numbers_to_take_along(self, opened: Browser) -> None:
        named = """[...document.querySelectorAll('.chart')].every((chart) => chart.getAttribute('role') === 'img'
            && document.getElementById(chart.getAttribute('aria-labelledby')).textContent.length > 20)"""
        assert value(opened, named)
        rows = value(opened, "csvText(told.get('panel-loss'))").strip().split("\n")
        assert rows[0] == "run,line,step,value,ci_low,ci_high,null,null_mean,null_low,null_high,p,left_out"
        assert rows[1] == "synthetic,rare,0,9,8.9,9.1,,,,,,"
        assert sum(row.endswith("it repeats step 2") for row in rows) == 2
        lengths = value(opened, "[...told.values()].map((one) => csvText(one).split('\\n').length)")
        assert min(lengths) > 3

    def test_the_chosen_step_is_in_the_address_and_marked_in_every_chart_over_steps(self, opened: Browser) -> None:
        value(opened, "location.hash = '#step=512'")
        opened.wait_for("document.getElementById('step').getAttribute('aria-valuetext') === 'step 512'")
        marks = "[...panels.map((p) => `panel-${p.name}`), 'sizes-rare', 'sizes-common']"
        at = value(opened, f"{marks}.map((id) => document.getElementById(id).layout.shapes[0].x0)")
        assert at == pytest.approx([np.log10(513)] * len(at))
        assert value(opened, "document.getElementById('map').layout.shapes[0].x0") == 9.5

    def test_on_paper_every_chart_is_drawn_and_the_slider_is_not(self, page: Path) -> None:
        program = chromium()
        assert program is not None
        with Browser(program, theme="dark") as browser:
            browser.open(page)
            value(browser, "dispatchEvent(new Event('beforeprint'))")
            assert value(browser, "document.querySelectorAll('.chart:not(.js-plotly-plot)').length") == 0
            assert value(browser, "document.querySelectorAll('details:not([open])').length") == 0
            assert value(browser, "css('--ground')") == "#ffffff"
            browser.call("Emulation.setEmulatedMedia", media="print")
            assert value(browser, "getComputedStyle(document.querySelector('.stepper')).display") == "none"
            browser.call("Emulation.setEmulatedMedia", media="")
            value(browser, "dispatchEvent(new Event('afterprint'))")
            assert value(browser, "document.querySelectorAll('details[open]').length") == 0

    def test_a_panel_of_one_line_names_it(self, opened: Browser) -> None:
        """A picture that is taken along has no words below it."""
        pairs = value(
            opened,
            """panels.map((panel) => [data.runs[0].series[panel.name].map((one) => one.label),
            [...document.querySelectorAll(`#panel-${panel.name} .legendtext`)].map((one) => one.textContent)])""",
        )
        assert any(len(labels) == 1 for labels, _ in pairs)
        for labels, named in pairs:
            assert named == labels

    def test_no_legend_lies_on_an_axis(self, opened: Browser) -> None:
        over = """[...document.querySelectorAll('.chart')].filter((chart) => {
            const [key, title] = ['.legend', '.xtitle'].map((one) => chart.querySelector(one)?.getBoundingClientRect());
            return key && title && key.bottom > title.top && key.top < title.bottom; }).map((chart) => chart.id)"""
        assert value(opened, over) == []

    def test_hovering_tells_the_values(self, opened: Browser) -> None:
        text = value(opened, "document.getElementById('panel-participation').data.find((t) => t.text).text[0]")
        assert "step 0" in text
        assert "null (selected) 20" in text

    def test_hostile_text_stays_text(self, hostile: Path) -> None:
        program = chromium()
        assert program is not None
        with Browser(program) as browser:
            browser.open(hostile)
            browser.draw_all(1180)
            assert value(browser, "typeof window.hacked") == "undefined"
            assert value(browser, "document.querySelector('h1').textContent") == HOSTILE
            assert value(browser, "document.querySelectorAll('img').length") == 0
            assert browser.complaints == []
            assert len(browser.requests) == 1

    def test_compared_runs_share_the_charts(self, compared: Path) -> None:
        program = chromium()
        assert program is not None
        with Browser(program, 390) as browser:
            browser.open(compared)
            browser.draw_all(390)
            assert value(browser, "document.getElementById('run-names').textContent") == "onetwo"
            # however many runs there are, a legend says what kinds of line there are
            said = """['sizes-rare', 'attention-chart'].map((id) =>
                [...byId(id).querySelectorAll('.legendtext')].map((one) => one.textContent))"""
            assert value(browser, said) == [["top", "power law", "rapid decay"], ["rare", "common"]]
            assert value(browser, "document.documentElement.scrollWidth <= innerWidth")
            assert browser.complaints == []
