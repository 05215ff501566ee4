# Everything is installed below .venv; nothing outside the checkout is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# Without a GPU, `gpu` counts the models that train side by side, one thread each: that is
# faster than one model on several threads, as long as the networks are small.
GPUS ?= $(if $(shell nvidia-smi -L 2>/dev/null),1,$(CORES))
PIP := $(BIN)/python -m pip --disable-pip-version-check
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --resources gpu=$(GPUS)

.PHONY: help demo small bench test test-faults test-slurm lint format venv slurm lock schema clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

venv: $(VENV)/.runtime  ## make .venv with the pinned runtime libraries

demo: $(VENV)/.runtime  ## run the demo study (no download) and say where its figures are
	$(SNAKEMAKE) --configfile config/demo.yaml
	@echo
	@echo "The report (open it in a browser): results/demo/report.html"
	@echo "The tables: results/demo/tables    The figures:"
	@ls -1 results/demo/figures/*.png

small: $(VENV)/.runtime  ## run the small study on the real archives
	$(SNAKEMAKE) --configfile config/small.yaml
	@echo
	@echo "The report (open it in a browser): results/small/report.html"
	@echo "The tables: results/small/tables    The figures:"
	@ls -1 results/small/figures/*.png

bench: $(VENV)/.dev  ## time noisesteps beside its peers: results/benchmarks/speed.json
	$(BIN)/python -m benchmarks run

test: $(VENV)/.dev  ## run the linters and every test
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest

test-faults: $(VENV)/.dev  ## injure small studies, all of it, and count into docs/reliability.md
	$(BIN)/python -m pytest tests/faults -m "faults_full or not faults_full" \
	  --timeout 1800 --fault-counts results/faults/counts.json
	$(BIN)/python tests/faults/table.py results/faults/counts.json docs/reliability.md

test-slurm: $(VENV)/slurm/.done  ## run a tiny study on a SLURM cluster of its own (Linux)
	$(VENV)/slurm/bin/python -m pytest -m slurm -s tests/slurm

lint: $(VENV)/.dev  ## ruff, clang-format, snakefmt and snakemake --lint
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/clang-format --dry-run --Werror src/noisesteps/models/kernels/*.[ch]
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: $(VENV)/.dev  ## let ruff, clang-format and snakefmt rewrite the sources
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/clang-format -i src/noisesteps/models/kernels/*.[ch]
	$(BIN)/snakefmt Snakefile workflow

schema: $(VENV)/.runtime  ## write the config's JSON schema and table of keys anew
	$(BIN)/python -m noisesteps.schema

lock:  ## resolve the pinned environments anew (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate -q -o envs/noisesteps.lock
	uv pip compile pyproject.toml --extra dev -c envs/noisesteps.lock --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate -q -o envs/dev.lock
	uv pip compile pyproject.toml --extra slurm -c envs/noisesteps.lock --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate -q -o envs/slurm.lock

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "noisesteps needs Python 3.11 or newer; name one with make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: envs/noisesteps.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing the pinned libraries into $(VENV) (about 6 GB, some minutes) ..."
	$(PIP) install --quiet --require-hashes --requirement envs/noisesteps.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

slurm: $(VENV)/.runtime  ## add Snakemake's plugin for SLURM to .venv
	$(PIP) install --quiet --require-hashes --requirement envs/slurm.lock

$(VENV)/.dev: envs/dev.lock $(VENV)/.runtime
	$(PIP) install --quiet --require-hashes --requirement envs/dev.lock
	@touch $@

# What the tests of SLURM run on: the environment and the plugin above it. In the
# environment itself it would cost every snakemake 9 s where no cluster answers.
$(VENV)/slurm/.done: envs/slurm.lock $(VENV)/.dev
	$(BIN)/python -m venv --without-pip --clear $(VENV)/slurm
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" \
	  % sysconfig.get_path("purelib"))' > $(VENV)/slurm/environment.pth
	mv $(VENV)/slurm/environment.pth $(VENV)/slurm/lib/python3*/site-packages/
	$(VENV)/slurm/bin/python -m pip --disable-pip-version-check install --quiet \
	  --require-hashes --requirement envs/slurm.lock
	@touch $@

clean:  ## remove the demo's results
	rm -rf results/demo
