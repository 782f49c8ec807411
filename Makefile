# Every target makes .venv itself; nothing else has to be there but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test detection check format clean

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
