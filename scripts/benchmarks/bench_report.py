"""How long a report takes, how large its page is and how fast it opens, for a run of a large suite's shape.

    python scripts/benchmarks/bench_report.py [--steps 154] [--neurons 8192] [--heads 16] [--out DIR]

Writes a synthetic run: noise about smooth trends, rows of the kinds a real run stores. Reports it, and opens the page
in headless Chromium where there is one. Opening time runs from the navigation's start to the load event, and to the
first chart after the page was scrolled to it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from rtdyn.views.report.report import PAGE, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=154)
    parser.add_argument("--neurons", type=int, default=8192)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from support.synthetic import synthetic_run

    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        run = synthetic_run(out / "run", arguments.steps, arguments.neurons, arguments.heads)
        start = time.perf_counter()
        report([run], out / "report", None, False, Console())
        print(f"{arguments.steps} steps, {arguments.neurons} neurons: {time.perf_counter() - start:.1f} s")
        _open(out / "report" / PAGE)


def _open(file: Path) -> None:
    from support.browser import Browser, chromium

    program = chromium()
    if program is None:
        print("no Chromium here: opening not measured")
        return
    with Browser(program) as browser:
        browser.open(file)
        load = browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
        start = time.perf_counter()
        browser.evaluate("document.getElementById('curves').scrollIntoView()")
        browser.wait_for("document.querySelectorAll('.js-plotly-plot').length > 0")
        print(f"loaded after {load:.2f} s, first chart {time.perf_counter() - start:.2f} s after it was scrolled to")


if __name__ == "__main__":
    main()
