# Two commands do all the set-up: `make demo` and `make test`. Both reuse what is there.

PYTHON ?= python3
SRC ?= demo/cat_dog_img
WEIGHTS ?= none
VENV := .venv
RUN := $(VENV)/bin/python
OUT := demo/out
RUN_DIR := demo/run

.PHONY: demo test test-slow lint clean

$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { echo "Python 3.10 to 3.13 is needed (TensorFlow 2.21 has no other): make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy tfrecord_tools trainers
	$(RUN) -m pytest

test-slow: $(VENV)/installed
	$(RUN) -m pytest -m slow

clean:
	rm -rf $(VENV) demo build *.egg-info
