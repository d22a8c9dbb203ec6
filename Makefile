# make demo   the whole of it, on a fresh machine: environment, export, quantize, compare, report
# make test   lint, types and tests
# make site   the documentation, as a site in build/site

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := export quantize runtime calibration benchmarks tests
SHARED_DATA ?= $(firstword $(SREDGE_DATA) ../shared/data)

.PHONY: demo test lint types tests site format calibration-tables schema clean

demo: $(STAMP)
	$(BIN)/python -m export lesrcnn --scale 2
	$(BIN)/python -m quantize build/lesrcnn_x2 --calib div2k
	$(BIN)/python -m benchmarks build/lesrcnn_x2 --data samples

test: lint types tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

tests: $(STAMP)
	$(BIN)/pytest

# The documentation as a site; a warning fails it.
site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file .mkdocs.yml

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Measures the calibration tables that ship beside the weights anew, on the real DIV2K files.
calibration-tables: $(STAMP)
	set -e; for weights in export/shipped/*.safetensors; do \
	  bundle=build/tables/$$(basename $$weights .safetensors); name=$$(basename $$bundle); \
	  $(BIN)/python -m export $${name%_x*} --scale $${name##*_x} --weights shipped --out $$bundle; \
	  $(BIN)/python -m quantize $$bundle --calib div2k --data $(SHARED_DATA) --without kernel-layouts; \
	  cp $$bundle/calibration-*.json calibration/shipped/$$name.json; \
	  $(BIN)/python -m quantize.weights.shipped_rounding $$bundle calibration/shipped/$$name.safetensors; \
	done

# The manifest's published JSON Schema.
schema: $(STAMP)
	$(BIN)/python -c "import json; from runtime.bundle import manifest_schema; print(json.dumps(manifest_schema(), indent=1))" \
	  > deploy_docs/manifest.schema.json

clean:
	rm -rf build $(VENV)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"sredge needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}; name another: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[all]'
	@touch $@
