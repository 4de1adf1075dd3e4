# Each target does its own set-up: a virtual environment in .venv, with what the target needs.
# Variables: PYTHON (3.11 or newer), VENV, TEST_EXTRAS, WORKERS; for hunt MINUTES and SEED.

PYTHON ?= python3
VENV ?= .venv
# cbc brings a solver of 600 MB; `make test TEST_EXTRAS=test+gurobi` leaves it out, and its tests are skipped.
TEST_EXTRAS ?= test+gurobi+cbc
WORKERS ?= 2
MINUTES ?= 30
# Empty: a fresh one, which is printed.
SEED ?=
# A folder with public networks, for `make instances`.
NETWORKS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
# Two workers and a BLAS that takes both cores for each of them would be slower than one.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# Processor time of one thread: other work and the number of cores hardly touch it.
BENCH = $(ONE_THREAD) $(BIN)/python -m pytest bench --benchmark-timer=bench.clock.cpu \
  --benchmark-columns=min,median,rounds --benchmark-sort=fullname
comma := ,

# What the caller's shell happens to hold must not reach the environment that is tested.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV PYTEST_ADDOPTS PYTEST_PLUGINS MYPYPATH
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV

.PHONY: help demo test test-long hunt instances lint types docs bench bench-compare bench-baseline clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "make demo       find the stable neurons of the network in examples/"
	@echo "make test       all tests but the long ones"
	@echo "make test-long  the long ones"
	@echo "make hunt       look for false answers on random cases for MINUTES=30; SEED=N repeats a run"
	@echo "make instances  the library of MILP instances, in build/instances (NETWORKS=DIR: public networks too), checked"
	@echo "make lint       ruff: rules and format"
	@echo "make types      mypy --strict"
	@echo "make docs       the site, in build/site; runs the tutorials"
	@echo "make bench      the benchmarks; bench-compare: beside the stored baseline; bench-baseline: store a new one"
	@echo "make clean      remove .venv, caches and what was built"

demo: $(VENV)/.installed
	@mkdir -p build
	$(BIN)/stablenet find examples/digits_3x100.onnx --domain box:0:1 --output build/demo-report.json

test: $(VENV)/.installed-$(TEST_EXTRAS)
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not long" -n $(WORKERS) --dist loadgroup

test-long: $(VENV)/.installed-$(TEST_EXTRAS)
	$(ONE_THREAD) $(BIN)/python -m pytest -m long -n $(WORKERS) --dist loadgroup

hunt: $(VENV)/.installed-$(TEST_EXTRAS)
	$(ONE_THREAD) $(BIN)/python -m tests.hunt --minutes $(MINUTES) --workers $(WORKERS) --output build/hunt \
	  $(if $(SEED),--seed $(SEED))

instances: $(VENV)/.installed-instances
	@mkdir -p build
	$(ONE_THREAD) $(BIN)/stablenet instances build build/instances $(if $(NETWORKS),--networks $(NETWORKS))
	$(ONE_THREAD) $(BIN)/stablenet instances check build/instances

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	PYTHON="$(abspath $(BIN)/python)" .ci/types

# Warnings are errors: a dead link, a page that is nowhere in the contents, a tutorial that prints something else.
docs: $(VENV)/.installed-docs
	$(ONE_THREAD) NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "the site: build/site/index.html"

bench: $(VENV)/.installed-test+gurobi+cbc+bench
	$(BENCH)

# The baseline is a record of one machine: docs/comparing.md says what a ratio to it means.
bench-compare: $(VENV)/.installed-test+gurobi+cbc+bench
	@mkdir -p build
	$(BENCH) -m "not long" --benchmark-compare=bench/baseline.json --benchmark-json=build/bench.json
	$(BIN)/python bench/ratios.py build/bench.json

bench-baseline: $(VENV)/.installed-test+gurobi+cbc+bench
	$(BENCH) -m "not long" --benchmark-json=bench/baseline.json

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "stablenet needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1);" \
	    "name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	"$(PYTHON)" -m venv --clear "$(VENV)" || { \
	  echo "no virtual environment could be made; on Debian and Ubuntu the package python3-venv is needed" >&2; exit 1; }
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.created
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.created
	$(PIP) -e ".[$(subst +,$(comma),$*)]"
	@touch $@
