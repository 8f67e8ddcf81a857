# make train and make test are all a new checkout needs; both make .venv from the pinned constraints if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# one rank per GPU with NCCL, or two ranks with gloo where there is none
RANKS = $(shell $(BIN)/python -c "import torch; print(torch.cuda.device_count() or 2)")
PRESET ?= cartpole
ARGS ?=
JOBS ?= slurm

ROWS ?=

.PHONY: train test test-slow test-chaos test-slurm lint types clean

train: $(READY)
	OMP_NUM_THREADS=1 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
	$(BIN)/torchrun --standalone --nproc-per-node $(RANKS) -m trainer train $(PRESET) $(ARGS)

# two files at a time; types are checked beside the tests, since mypy has use for one core alone
test: lint
	@$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest -m "not slow and not slurm" -n 2 --dist loadfile; tests=$$?; \
	wait $$types || { echo "mypy found mistakes: make types" >&2; exit 1; }; \
	exit $$tests

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not slurm" --timeout 1800

# the table of docs/reliability.md, which takes hours; make test-chaos ROWS="kill-2 flip" for a part of it
test-chaos: $(READY)
	$(BIN)/python -m benchmarks.chaos $(if $(ROWS),--rows $(ROWS))

# each worker on a SLURM of its own, which goes with it; most of the time goes in waiting for SLURM's clocks.
# Where none is installed it says so and is content
test-slurm: $(READY)
	@if $(BIN)/python tests/slurm/cluster.py; then $(BIN)/python -m pytest tests/slurm -m "$(JOBS)" -n 3 --dist load; fi

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# torch comes first and alone, so that a local or CPU build that satisfies the pin is taken
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
