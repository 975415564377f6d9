# Every target sets itself up: `make quickstart` or `make test` in a fresh clone is enough.
# Needs Python 3.11, 3.12 or 3.13 with its venv module; choose one with `make setup PYTHON=...`.

VENV := .venv
STAMP := $(VENV)/installed
BIN := $(VENV)/bin
# The TPU compiler has an environment of its own, so that what jax wants can neither change nor
# break what `make test` runs with. TensorFlow and the compiler never share a process either.
TPU_VENV := .venv-tpu
TPU_STAMP := $(TPU_VENV)/installed
BROWSER_STAMP := $(VENV)/browser-installed
DOCS_STAMP := $(VENV)/docs-installed
RELEASE_STAMP := $(VENV)/release-installed

# Keeps TensorFlow's start-up messages, not its warnings and errors, out of the way.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup setup-cuda quickstart test slow slow-share keras-suite tpu-check tpu-cost browser-check \
    docs tutorials dist lint types bench bench-check clean

help:
	@echo 'make setup       .venv with everything the project needs (the other targets do it too)'
	@echo 'make setup-cuda  the same with the CUDA libraries, for NVIDIA GPUs (2.5 GB more)'
	@echo 'make quickstart  five ways of learning on real digits, in under two minutes'
	@echo 'make test        the test suite without the slow tests'
	@echo 'make slow        the slow tests'
	@echo 'make slow-share  one in 20 of the slow tests, others every day (SHARE=3/20: the third), and the dearest'
	@echo 'make keras-suite  the layer tests of Keras on the feedback twins (KERAS_SOURCE=, RULE=)'
	@echo 'make tpu-check   train and mirror steps compiled for a TPU (x86 Linux; ALL=1: every rule in bfloat16, too)'
	@echo 'make tpu-cost    what every rule costs on a TPU by its compiler (hours; goes on where it was stopped)'
	@echo 'make browser-check  TensorBoard and the documentation in a real browser (needs chromium and chromedriver)'
	@echo 'make docs        the documentation as a site, site/index.html, which needs no network'
	@echo 'make tutorials   runs the tutorials and writes their pages anew (NAME=digits: that one)'
	@echo "make dist        wheel and sdist, checked, and run in fresh environments (PYTHONS='python3.11 python3.13')"
	@echo 'make lint types  ruff; mypy --strict'
	@echo 'make bench       what every rule costs over plain Keras, on one network (NETWORK=mlp)'
	@echo 'make bench-check  whether the committed costs got worse (some minutes on a quiet machine)'
	@echo 'make clean       remove .venv, .venv-tpu and caches; runs/ stays'

setup: $(STAMP)

setup-cuda: $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[cuda]'

quickstart: $(STAMP)
	@$(BIN)/python -m train.quickstart

# Two test workers share two cores: one TensorFlow thread each.
test slow slow-share keras-suite: export TF_NUM_INTRAOP_THREADS = 1
test slow slow-share keras-suite: export TF_NUM_INTEROP_THREADS = 1

test: $(STAMP)
	@$(BIN)/python -m pytest -q

slow: $(STAMP)
	@$(BIN)/python -m pytest -q -m slow

# Which share is said by the day of the year, so that in 20 days all of them have run.
SHARE ?= $(shell date +%j)/20
slow-share: $(STAMP)
	@$(BIN)/python -m pytest -q -m slow --share=$(SHARE)

# The installed Keras brings its tests, or KERAS_SOURCE names a checkout. RULE=fa: that rule alone.
keras-suite: $(STAMP)
	@KERAS_SOURCE="$(or $(KERAS_SOURCE),$$($(BIN)/python -c \
	    'import sysconfig; print(sysconfig.get_path("purelib"))'))" \
	    $(BIN)/python -m pytest -q -m '' --dist load tests/keras_suite $(if $(RULE),-k Test_$(RULE))

# One program at a time. With the compiler named, its absence is a failure, not a reason to skip.
tpu-check: export TPU_CHECK_PYTHON = $(TPU_VENV)/bin/python
tpu-check: $(STAMP) $(TPU_STAMP)
	@$(BIN)/python -m pytest -q -n 0 -m '$(if $(ALL),,not tpu_product)' tests/tpu

# ARGS='--networks resnet18 --rules kolen_pollack': some of it.
tpu-cost: export TPU_CHECK_PYTHON = $(TPU_VENV)/bin/python
tpu-cost: $(STAMP) $(TPU_STAMP)
	@$(BIN)/python -m benchmarks.tpu_cost $(ARGS)
	@$(BIN)/python -m benchmarks.scaling

# Without a browser this fails; `make slow` skips it.
browser-check: export BROWSER_REQUIRED = 1
browser-check: $(STAMP) $(BROWSER_STAMP) $(DOCS_STAMP)
	@$(BIN)/python -m pytest -q -n 0 -m '' tests/browser

# Strictly: a link that leads nowhere, or a page outside the navigation, is an error (but not with
# --quiet, under which MkDocs counts no warnings).
docs: $(STAMP) $(DOCS_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

tutorials: $(STAMP) $(DOCS_STAMP)
	@$(BIN)/python -m tools.tutorials $(NAME)

dist: $(STAMP) $(RELEASE_STAMP)
	@$(BIN)/python -m tools.distribution $(PYTHONS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/python -m benchmarks.step_time $(if $(NETWORK),--network $(NETWORK))

bench-check: $(STAMP)
	@$(BIN)/python -m benchmarks.check

clean:
	rm -rf $(VENV) $(TPU_VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted set-up is done again and a finished one is not.
$(STAMP): pyproject.toml
	@python=''; without_venv=''; \
	for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	    $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	        2>/dev/null || continue; \
	    if $$candidate -c 'import ensurepip, venv' 2>/dev/null; then python=$$candidate; break; fi; \
	    without_venv=$$candidate; \
	done; \
	if [ -z "$$python" ] && [ -n "$$without_venv" ]; then \
	    echo "$$without_venv cannot make virtual environments: install its venv module" \
	        "(on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; \
	fi; \
	if [ -z "$$python" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 found (TensorFlow 2.21 has wheels for no other that" \
	        "Keras 3.15 supports): install one, or name it with make PYTHON=/path/to/python." >&2; \
	    exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$python --version) (about 3 GB; a few minutes, once)"; \
	$$python -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[train,dev]'
	@touch $(STAMP)

$(BROWSER_STAMP): pyproject.toml | $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[browser]'
	@touch $(BROWSER_STAMP)

$(DOCS_STAMP): pyproject.toml | $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[docs]'
	@touch $(DOCS_STAMP)

$(RELEASE_STAMP): pyproject.toml | $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[release]'
	@touch $(RELEASE_STAMP)

# Only the packages of the extra: TensorFlow stays out.
$(TPU_STAMP): pyproject.toml | $(STAMP)
	@echo 'Setting up $(TPU_VENV) with the TPU compiler (about 1.2 GB; once)'
	@$(BIN)/python -m venv $(TPU_VENV)
	@$(BIN)/python -c 'import tomllib; settings = tomllib.load(open("pyproject.toml", "rb")); \
	    print(*settings["project"]["optional-dependencies"]["tpu-check"], sep="\n")' \
	    > $(TPU_VENV)/packages.txt
	@$(TPU_VENV)/bin/python -m pip install -qq --disable-pip-version-check \
	    -r $(TPU_VENV)/packages.txt
	@touch $(TPU_STAMP)
