# What one does while one works on rtdyn. CONTRIBUTING.md says more.
.PHONY: check quick test docs pages gallery figures bench package

check: ## lint, types and the contract of imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache

quick: ## the tests that take under a second each
	python -m pytest -m quick

test: ## all tests
	python -m pytest

pages: ## the pages that are made of the code
	python scripts/docs/write_metrics.py
	python scripts/docs/write_cli.py
	python scripts/docs/write_api.py

gallery: ## the bundled run's page, which docs/gallery/ has only where it was drawn
	rtdyn track --model tiny --steps all --wandb disabled --out build/tiny
	rtdyn report build/tiny --out build/page
	mkdir -p docs/gallery
	cp build/page/report.html docs/gallery/tiny.html

figures: gallery ## the README's figure, and the one where results are read
	python scripts/docs/draw_first_figure.py build/tiny
	cp build/page/rank-influence.png docs/

docs: pages ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

bench: ## the influence of every neuron beside other ways to compute it; needs the extra bench
	python scripts/benchmarks/bench_ablation.py

package: ## wheel and sdist, each installed and used in an environment of its own; needs the package build
	rm -rf dist
	python -m build
	scripts/try_package.sh dist -c constraints.txt
