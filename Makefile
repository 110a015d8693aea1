# One verb each, the same here and in CI. Needs Python 3.11 or newer; uses uv where it is installed, else venv and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench sim mutants flood format clean

$(READY): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && uv pip install --quiet --python $(BIN)/python -e '.[test]'; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'; \
	fi
	@touch $(READY)

demo: $(READY)  ## set up, and run the main job: a price sync into a shop that misbehaves
	$(BIN)/onward run handlers.demo:app pricing/sync.requested

test: $(READY)  ## set up, and run every test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(READY)  ## style, types, import directions, the list of the hot path
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/hot_path

bench: $(READY)  ## the figures of benchmarks/
	$(BIN)/python -m benchmarks

sim: $(READY)  ## five minutes of simulated faults, from a fresh seed
	$(BIN)/python -m tests.sim

mutants: $(READY)  ## break the engine on purpose, and see that each breakage is found
	$(BIN)/python -m tests.sim.mutants

flood: $(READY)  ## 10,000 events through 100 sandboxes that are killed, on both stores
	$(BIN)/python -m tests.flood --store sqlite
	$(BIN)/python -m tests.flood --store dynoxide

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .onward
