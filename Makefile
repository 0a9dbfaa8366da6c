# Every task round a recipe in one word, the same on a laptop and in continuous integration.
# RECIPE= names another recipe, ARGS= is passed on: make demo ARGS='--processes 2', make test ARGS='-k store'.

PYTHON ?= python3
RECIPE ?= recipes/demo.yaml
ARGS ?=
BASE ?= HEAD

BIN := .venv/bin
INSTALLED := .venv/installed
RECIPES = $(filter-out recipes/accelerate/%,$(sort $(shell find recipes -name '*.yaml')))

.DEFAULT_GOAL := help
.PHONY: install demo pretrain finetune eval report notebook notebooks docs check test test-all golden bench bench-gpu clean help

install: $(INSTALLED) ## Make .venv and install hfpipe into it, at the tested versions

$(INSTALLED): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "hfpipe needs Python 3.10 or newer; this is $$($(PYTHON) --version 2>&1). Name another: make install PYTHON=python3.12" >&2; \
		exit 1; }
	@test -x $(BIN)/pip || { echo "making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "installing hfpipe and what it needs into .venv; this takes a few minutes the first time"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check 'pip>=22.3'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c .ci/constraints.txt -e '.[demo,dev]'
	@touch $@
	@echo "installed; try: make demo, or $(BIN)/hfpipe --help"

demo: $(INSTALLED) ## Run a recipe from raw text to a table of scores
	@$(BIN)/hfpipe run $(RECIPE) $(ARGS)

pretrain: $(INSTALLED) ## Run a recipe as far as its last pretraining
	@$(BIN)/hfpipe run $(RECIPE) --until pretrain $(ARGS)

finetune: $(INSTALLED) ## Run a recipe as far as its last fine-tuning
	@$(BIN)/hfpipe run $(RECIPE) --until finetune $(ARGS)

eval: $(INSTALLED) ## Run a recipe as far as its last evaluation
	@$(BIN)/hfpipe run $(RECIPE) --until evaluate $(ARGS)

report: $(INSTALLED) ## Print the scores of a recipe again, and write its page to build/report.html
	@$(BIN)/hfpipe report $(RECIPE) $(ARGS)
	@mkdir -p build
	@$(BIN)/hfpipe report $(RECIPE) $(ARGS) --format html > build/report.html
	@echo "its page: build/report.html" >&2

notebook: $(INSTALLED) ## Open the notebooks in Jupyter
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c .ci/constraints.txt -e '.[demo,notebook]'
	@$(BIN)/jupyter lab notebooks $(ARGS)

notebooks: $(INSTALLED) ## Execute every notebook, and say whether each of them works
	@$(BIN)/jupyter execute $(ARGS) notebooks/*.ipynb

# Not --quiet, with which mkdocs counts no warnings: a broken link would pass.
docs: $(INSTALLED) ## Build the manual into build/docs/, strictly
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --config-file docs/generator/mkdocs.yml $(ARGS)
	@echo "built; open build/docs/index.html"

check: $(INSTALLED) ## Format, lint, types, direction of imports, and every recipe
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hfpipe check $(RECIPES)
	$(BIN)/pre-commit run whitespace --all-files

test: $(INSTALLED) ## Run every test, the slow ones too, on all cores
	$(BIN)/pytest -m "" $(ARGS)

test-all: check test ## Check and test everything, as continuous integration does

golden: $(INSTALLED) ## Show that no weight, score or prediction of any task differs from those of BASE=COMMIT
	@$(BIN)/python tests/golden.py against $(BASE) $(ARGS)

bench: $(INSTALLED) ## Measure this processor: hfpipe next to Trainer and plain loops, in 25 minutes
	@$(BIN)/python tests/bench/cpu.py $(ARGS)

# HERE=1 takes $(PYTHON) and its packages as they are, for a machine without a package registry.
bench-gpu: $(if $(HERE),,$(INSTALLED)) ## Measure one GPU: correctness, throughput, whole recipes
	@$(if $(HERE),$(PYTHON),$(BIN)/python) tests/bench/gpu.py $(ARGS)

clean: ## Remove caches and build products; runs/ and .venv stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name .venv -prune -o -name runs -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
