# make demo, docs, test, test-fast, coverage, mutants, soak, lint, bench, gpu, clean: each sets up .venv first, once, and works offline after that.
PYTHON ?= python3
BIN := .venv/bin
# More settings for the demo: make demo OVERRIDES="trainer.max_epochs=2"
OVERRIDES ?=

.PHONY: setup docs demo test test-fast coverage mutants soak lint bench gpu clean

setup: .venv/.ready

# The project is installed once in place: only a change of pyproject.toml calls for another installation.
.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "$(PYTHON) is %d.%d, but Python 3.10 or newer is needed: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (PyTorch comes with CUDA: some minutes, about 6 GB) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $@

demo: .venv/.ready
	$(BIN)/hardneg-train $(OVERRIDES)

# Tests start dozens of processes: each would compile all it imports where the environment forbids to keep bytecode.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test: .venv/.ready
	$(PYTEST)

# Everything but whole commands, processes, browsers and compilers.
test-fast: .venv/.ready
	$(PYTEST) -m "not slow"

# Lines that tests run, but for those that only other processes run.
coverage: .venv/.ready
	$(PYTEST) --cov=hardneg_plugin --cov-report=term:skip-covered

# Which small faults would no fast test notice? Resumes; make mutants PATHS="plugin/mixin distributed" OPTIONS="--sample 50".
PATHS ?=
OPTIONS ?=
mutants: .venv/.ready
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py $(PATHS) $(OPTIONS)

# 2,000 steps of two processes with a queue, and with a bank: is memory flat, do ranks agree?
soak: .venv/.ready
	SOAK_STEPS=2000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/integration/test_soak.py

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site: site/index.html. A link that leads nowhere fails it.
docs: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs site
	@echo "site/index.html"

bench: .venv/.ready
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/host_overhead.py
	$(BIN)/python benchmarks/gather.py
	$(BIN)/python benchmarks/bank.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/mining.py
	$(BIN)/python benchmarks/chunks.py
	$(BIN)/python benchmarks/command_start.py

# Correctness and speed on a CUDA machine, in under 9 minutes: docs/results/gpu/CARD.md. Parts that are done are not run again.
# make gpu GPU="--parts speed_16"; on a CPU make gpu GPU="--tiny --out FOLDER" runs every part at small sizes.
GPU ?=
gpu: .venv/.ready
	$(BIN)/python benchmarks/gpu.py $(GPU)

# Runs in outputs/ are nobody's to remove but yours.
clean:
	rm -rf .venv .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
