"""`rtdyn report` as a user runs it: what it draws of each kind of run, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from PIL import Image
from support.synthetic import synthetic_run

from rtdyn import open_run
from rtdyn.cli import main
from rtdyn.judge.observations import read_judged
from rtdyn.store.manifest import SCHEMA_VERSION
from rtdyn.store.run import read_run, table_file
from rtdyn.views.report.figures import figures
from rtdyn.views.report.panels import judged_panels
from rtdyn.views.report.plots.style import COLUMN, DPI, save
from rtdyn.views.report.report import PAGE
from rtdyn.views.report.run_tables import show

SINGLE = (
    "rank-influence",
    "emergence-influence",
    "emergence-groups",
    "emergence-layers",
    "regime-sizes",
    "neurons",
    "spectra",
    "hill-over-k",
    "attention",
)
SMALL = ("--tokens", "2000", "--window", "32", "--min-targets", "10", "--tolerance", "0.01", "--rare", "0.3:0.95",
         "--positions-per-rare", "1")  # fmt: skip


def rtdyn(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every analysis, one of whose steps is left out of trajectories."""
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", 6, 60, left_out={4: "it repeats step 2"})


@pytest.fixture(scope="module")
def reported(takes_long: None, made: Path) -> Path:
    """The run with its report."""
    assert rtdyn("report", made).exit_code == 0
    return made


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run", ignore=shutil.ignore_patterns("report")))


def drawn(folder: Path) -> set[str]:
    """Names of the figures that are there as PNG and PDF, both whole."""
    names = {file.stem for file in folder.glob("*.png")}
    assert names == {file.stem for file in folder.glob("*.pdf")}
    for name in names:
        with Image.open(folder / f"{name}.png") as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 200
        content = (folder / f"{name}.pdf").read_bytes()
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
    return names


def edit_manifest(run: Path, **changes: object) -> None:
    file = run / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.slow
def test_a_run_of_all_analyses_gives_every_figure_and_the_page(reported: Path) -> None:
    assert drawn(reported / "report") == set(SINGLE)
    assert (reported / "report" / PAGE).is_file()
    assert not list((reported / "report").glob(".*"))


def test_the_same_run_is_drawn_the_same_twice(reported: Path, tmp_path: Path) -> None:
    for file in save(open_run(reported).plot("regime-sizes"), tmp_path, "regime-sizes"):
        assert file.read_bytes() == (reported / "report" / file.name).read_bytes(), file.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("analyses", "figures"),
    [
        ("ablation", {"rank-influence", "emergence-influence", "neurons"}),
        ("heavytail", {"emergence-layers", "hill-over-k"}),
    ],
)
def test_a_real_run_of_one_analysis_is_drawn_as_far_as_it_goes(
    analyses: str, figures: set[str], tmp_path: Path
) -> None:
    tracked = rtdyn("track", "--model", "tiny", "--steps", "0,512,4000", "--analyses", analyses, *SMALL,
                    "--wandb", "disabled", "--out", tmp_path / "run")  # fmt: skip
    assert tracked.exit_code == 0, tracked.output
    done = rtdyn("report", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert drawn(tmp_path / "run/report") == figures
    for name in set(SINGLE) - figures:
        assert f"{name}: not drawn: " in done.output
    page = (tmp_path / "run/report" / PAGE).read_text()
    assert "Analyses that were not asked for" in page
    assert "3 of 3 audited steps are sound" in page


@pytest.mark.slow
def test_an_unfinished_run_reports_the_steps_it_has(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    last = max(int(step) for step in manifest["checkpoints"])
    (copied / "curves" / f"step={last:06d}.parquet").unlink()
    edit_manifest(copied, checkpoints={}, left_out={})
    done = rtdyn("report", copied)
    assert done.exit_code == 0, done.output
    assert drawn(copied / "report") == set(SINGLE)
    page = (copied / "report" / PAGE).read_text()
    assert "The run had not ended when this page was made" in page
    assert f"{len(manifest['checkpoints']) - 1} steps stored" in page
    assert f"<td>{last}</td><td>step{last}</td>" not in page


@pytest.mark.slow
def test_runs_that_share_a_report_share_the_figures(reported: Path, tmp_path: Path) -> None:
    other = synthetic_run(tmp_path / "other", 5, 60, suite="other", seed=1)
    done = rtdyn("report", reported, other, "--out", tmp_path / "both")
    assert done.exit_code == 0, done.output
    assert drawn(tmp_path / "both") == set(SINGLE)
    assert not list((tmp_path / "both").glob("neuron-table.*"))
    page = (tmp_path / "both" / PAGE).read_text()
    assert "<h3>synthetic</h3>" in page
    assert "<h3>other</h3>" in page


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, None])
def test_a_store_of_another_schema_is_refused_by_its_version(copied: Path, version: int | None) -> None:
    edit_manifest(copied, schema_version=version)
    done = rtdyn("report", copied)
    assert done.exit_code == 3
    assert f"has store schema {version}; this rtdyn reads schema {SCHEMA_VERSION}" in " ".join(done.output.split())
    assert not (copied / "report").exists()


def test_a_run_without_a_finished_step_is_refused(copied: Path) -> None:
    shutil.rmtree(copied / "metrics")
    done = rtdyn("report", copied)
    assert done.exit_code == 3
    assert "holds no finished step yet" in done.output
    assert not (copied / "report").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--figures", "nothing"), "no figure is called 'nothing'; there are rank-influence, emergence-influence"),
        (("--format", "gif"), "figures are not written as 'gif'; there are png, pdf, svg"),
        (("--figures", "spectra", "--open"), "--open opens the page, which --figures leaves out"),
    ],
)
def test_figures_and_forms_that_there_are_not_are_refused(copied: Path, options: tuple[str, ...], said: str) -> None:
    done = rtdyn("report", copied, *options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not (copied / "report").exists()


def test_chosen_figures_are_drawn_alone_as_wide_as_a_column(copied: Path, tmp_path: Path) -> None:
    done = rtdyn("report", copied, "--figures", "regime-sizes,neuron-table", "--format", "svg,png", "--width", "single",
                 "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 figure (SVG, PNG) in" in done.output
    names = {f"regime-sizes.{kind}" for kind in ("svg", "png")}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names | {"neuron-table.csv", "neuron-table.tex"}
    with Image.open(tmp_path / "out/regime-sizes.png") as image:
        assert image.width == int(COLUMN["single"] * DPI)


def test_the_neuron_table_is_written_for_others_to_set(copied: Path, tmp_path: Path) -> None:
    done = rtdyn("report", copied, "--figures", "neuron-table", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert done.output.split() == [
        "neuron-table:",
        "neuron-table.csv",
        "and",
        "neuron-table.tex",
        "in",
        str(tmp_path / "out"),
    ]
    table = pl.read_csv(tmp_path / "out/neuron-table.csv")
    run = open_run(copied)
    last = run.neurons.filter(step=run.steps[-1]).sort("rank").head(20).collect()
    assert table["neuron"].to_list() == last["neuron"].to_list()
    assert table["influence_rare"].to_list() == pytest.approx(last["mean_abs_rare"].to_list())
    assert (table["influence_rare_low"] < table["influence_rare"]).all()
    assert (table["influence_rare_high"] > table["influence_rare"]).all()
    lines = (tmp_path / "out/neuron-table.tex").read_text().splitlines()
    assert lines[0].startswith(r"\begin{tabular}{rrr")
    assert len([line for line in lines if line.endswith(r"\\")]) == 21
    columns = lines[0].partition("}{")[2].rstrip("}")
    assert {line.count("&") for line in lines if line.endswith(r"\\")} == {len(columns) - 1}


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    done = rtdyn("report", tmp_path)
    assert done.exit_code == 3
    assert "is not an rtdyn run" in done.output


def test_a_step_that_is_not_stored_is_refused_with_those_that_are(copied: Path) -> None:
    done = rtdyn("report", copied, "--at", "0,5")
    assert done.exit_code == 2
    assert "names a step that" in done.output
    assert "it holds 0, 1, 2, 4, 8, 16" in " ".join(done.output.split())
    assert not (copied / "report").exists()


def test_a_folder_that_cannot_be_written_is_refused(copied: Path) -> None:
    (copied / "report").write_text("in the way")
    done = rtdyn("report", copied)
    assert done.exit_code == 3
    assert "give another --out" in done.output
    assert (copied / "report").read_text() == "in the way"


@pytest.mark.slow
def test_a_neuron_without_influence_and_an_undefined_fit_are_drawn(copied: Path) -> None:
    file = table_file(read_run(copied), "neurons", 0)
    metadata = pl.read_parquet_metadata(file)
    dead = pl.col("neuron") < 3
    frame = pl.read_parquet(file).with_columns(
        *(pl.when(dead).then(0.0).otherwise(pl.col(c)).alias(c) for c in ("mean_abs_rare", "se_abs_rare")),
        pl.when(dead).then(pl.lit("censored")).otherwise(pl.lit(None)).alias("regime"),
    )
    frame.write_parquet(file, metadata={k: v for k, v in metadata.items() if k != "ARROW:schema"})
    run = open_run(copied)
    for name in ("rank-influence", "neurons"):
        run.plot(name, at=[0]).draw_without_rendering()


@pytest.mark.slow
def test_runs_that_differ_in_seed_alone_have_their_spread_drawn(tmp_path: Path) -> None:
    runs = [synthetic_run(tmp_path / f"s{i}", 5, 60, suite=f"s-seed{i}") for i in range(3)]
    done = rtdyn("report", *runs, "--figures", "seeds", "--format", "png", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"seeds.png", "seeds.csv"}
    table = pl.read_csv(tmp_path / "out/seeds.csv")
    row = table.filter(metric="Loss", line="rare").to_dicts()[0]
    assert (row["runs"], row["step"]) == (3, 8)
    assert row["median"] == pytest.approx(9 - 0.5 * math.log1p(8))
    other = synthetic_run(tmp_path / "other", 5, 60, suite="another")
    assert "no figure is called 'seeds'" in rtdyn("report", runs[0], other, "--figures", "seeds").output


def test_sizes_of_a_family_are_drawn_over_their_parameters(tmp_path: Path) -> None:
    runs = [show(read_judged(synthetic_run(tmp_path / n, 5, 60, suite=f"s-{n}"))) for n in ("160m", "70m", "1b")]
    judged = [judged_panels(run) for run in runs]
    figure = figures(runs, judged, [run.spread(2) for run in runs])["sizes"]()
    assert isinstance(figure, Figure)
    (loss,) = (axes for axes in figure.axes if axes.get_title(loc="left") == "Loss")
    for line in loss.lines:
        assert list(line.get_xdata()) == [7e7, 1.6e8, 1e9]
        assert list(line.get_ydata()) == pytest.approx([9 - 0.5 * math.log1p(8)] * 3)
