# Every target makes .venv itself; nothing else has to be there but Python 3.11 to 3.14.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test detection check perf format clean

run: .venv/run
	$(BIN)/bench run --table simclr_table6

test: .venv/test
	@$(MAKE) --no-print-directory detection || echo "Detectron2 cannot be installed here: its tests will skip"
	sh tests/system_packages.sh
	$(BIN)/python -m pytest

# Detectron2 for detection_voc and detection_coco; `make detection UPSTREAM=upstream` builds the current sources instead.
detection: .venv/detection

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Measures every speed budget beside the usual way and writes docs/performance.md; some twenty minutes, on a machine with nothing else to do.
# `make perf SHORT=1` shows in a minute that all of it can be measured, and writes to results/out/performance/ instead.
PERF := $(if $(SHORT),results/out/performance,docs)
perf: .venv/test
	mkdir -p results/out/performance
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/perf $(if $(SHORT),--short) --benchmark-quiet --benchmark-json=results/out/performance/run.json
	$(BIN)/python docs/make_performance.py results/out/performance/run.json --out $(PERF)

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs results/out reports/out

.venv/run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/detection: .venv/run requirements/install_detectron2.sh $(wildcard requirements/detectron2*)
	sh requirements/install_detectron2.sh $(BIN)/python $(UPSTREAM)
	touch $@

.venv/test: .venv/run
	$(PIP) --editable ".[test,dev]"
	touch $@
