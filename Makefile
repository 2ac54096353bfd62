# Every target builds .venv when it is missing or when what it is built from has changed.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
SHOWN := build/run
# The package as it is installed: mypy and import-linter do not follow setuptools' mapping of folders.
WHOLE := build/whole
TINY := corpus.speakers=10 corpus.utterances_per_speaker=8 folds=[0] rounds=8 cohort_fraction=0.5 \
	'shadow=[{corpus: synthetic_de, speakers: 10, utterances_per_speaker: 8}]' privacy=udp \
	adversary.shadow_federations=2 adversary.bootstraps=100 runtime=local

.PHONY: setup study test kernels lint docs bench mutants lock clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

study: $(READY)
	$(BIN)/fedser $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# The numeric tests with the kernels of an old processor: no test may depend on the last digits.
kernels: $(READY)
	MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default NUMBA_CPU_NAME=generic \
		$(BIN)/python -m pytest -n 2 --dist loadfile tests/client/training tests/client/models \
		tests/client/privacy tests/attacks/algorithms tests/server/strategy/test_aggregate.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(WHOLE)
	mkdir -p $(WHOLE)
	cp -R fedser $(WHOLE)
	cp -R attacks client common conf server $(WHOLE)/fedser
	cd $(WHOLE) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
	cd $(WHOLE) && $(abspath $(BIN))/lint-imports --config $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.import_linter_cache

# The notebook shows a tiny run, made for it.
docs: $(READY)
	rm -rf $(SHOWN)
	$(BIN)/fedser $(TINY) hydra.run.dir=$(SHOWN)
	NO_MKDOCS_2_WARNING=1 FEDSER_RUN=$(abspath $(SHOWN)) $(BIN)/python -m mkdocs build --quiet --strict

bench: $(READY)
	$(BIN)/python -m benchmarks.rounds $(ARGS)
	$(BIN)/python -m benchmarks.costs
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/python -m benchmarks.noise
	$(BIN)/python -m benchmarks.secure
	$(BIN)/python -m benchmarks.encrypted

# One-line faults in the privacy core: tests must catch them. Half an hour or more.
mutants: $(READY)
	$(BIN)/python -m tests.mutants $(ARGS)

# What the image installs, with the hashes of each file. PyTorch's builds differ by accelerator and
# lie on an index of their own: it is pinned by its version.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--no-annotate --no-header --config-file docker/uv.toml -c constraints.txt
lock: $(READY)
	printf 'setuptools\nwheel\n' | $(LOCK) --output-file docker/build.txt -
	$(LOCK) --no-emit-package torch --output-file docker/requirements.txt pyproject.toml

clean:
	rm -rf $(VENV) outputs multirun build site
