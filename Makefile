# `make demo` and `make test` set up everything that they need. Running them again skips what is finished.

PYTHON ?= python3
SAMPLE := demo/cat_dog_img
SRC ?= $(SAMPLE)
WEIGHTS ?= none

VENV := .venv
# A second environment, because PyTorch takes gigabytes and Apache Beam needs older Pillow, protobuf and pyarrow.
INTEROP := .venv-interop
# Other projects that `python -m benchmarks.table` measures. Two of them cannot be installed beside the others: MosaicML
# Streaming needs an older NumPy, and FFCV is compiled. Their environments have Python 3.10 to 3.13, but not this project.
PEERS := .venv-peers
STREAMING := .venv-streaming
FFCV := .venv-ffcv
RUN := $(VENV)/bin/python
# Each source and kind of weights has its own directories, so that a second call finds the work of the first.
NAME := $(subst /,_,$(SRC))
OUT := demo/out/$(NAME)
RUN_DIR := demo/runs/$(NAME)-$(subst /,_,$(WEIGHTS))

UNIT := tests/layout tests/images tests/sources tests/conversion tests/card tests/foreign

# Training from random weights on drawings: small images without a crop, because the drawings have no margin.
TRAINING := $(if $(filter none,$(WEIGHTS)),--image_size=96 --crop=0 --epochs=30,--image_size=160)

.PHONY: demo test test-unit test-slow test-interop coverage bench-check clean
.PHONY: architecture release-check docs pictures

$(VENV)/installed: EXTRAS := dev
$(INTEROP)/installed: EXTRAS := dev,interop
$(PEERS)/installed: EXTRAS := peers
$(VENV)/installed $(INTEROP)/installed $(PEERS)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { echo "Python 3.10 to 3.13 is needed (TensorFlow 2.21 has no other): make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(@D) || { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

$(STREAMING)/installed: PACKAGES := 'mosaicml-streaming>=0.13'
# FFCV is compiled with OpenCV and libjpeg-turbo: apt install libopencv-dev libturbojpeg0-dev pkg-config g++
$(FFCV)/installed: PACKAGES := 'ffcv>=1.0.2' setuptools torch torchvision
$(STREAMING)/installed $(FFCV)/installed: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	@touch $@

demo: $(VENV)/installed
	@test "$(SRC)-$(WEIGHTS)" = "$(SAMPLE)-none" -o "$(WEIGHTS)" != none || echo "For photographs pass pretrained weights: WEIGHTS=imagenet"
	@test -e "$(SAMPLE)" -o "$(SRC)" != "$(SAMPLE)" || $(RUN) -m tfrecord_tools.sample --out="$(SAMPLE)"
	@test -e "$(OUT)/convert.json" || $(RUN) -m tfrecord_tools.convert --src="$(SRC)" --out="$(OUT)"
	@$(RUN) -m trainers.finetune --tfrecords="$(OUT)" --run="$(RUN_DIR)" --weights="$(WEIGHTS)" \
	  --backbone=MobileNet --backbone_kwargs=alpha=0.25 $(TRAINING)

test: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy tfrecord_tools trainers examples tests benchmarks tools
	$(VENV)/bin/lint-imports --no-cache
	$(RUN) -m pytest

# Tests of the rooms from layout to card, without training.
test-unit: $(VENV)/installed
	$(RUN) -m pytest -m 'not slow and not gpu and not interop' $(UNIT)

# Line and branch coverage of the quick tests, also of commands in other processes. The least covered file comes first.
coverage: $(VENV)/installed
	$(RUN) -m coverage erase
	$(RUN) -m pytest --cov --cov-report=
	$(RUN) -m coverage report --show-missing --skip-covered --sort=cover

test-slow: $(VENV)/docs-installed
	$(RUN) -m pytest -m slow

test-interop: $(INTEROP)/installed
	$(INTEROP)/bin/python -m pytest -m interop

# Whether hot functions became slower than benchmarks/expected.json says. Valgrind counts their instructions.
bench-check: $(VENV)/installed
	@$(RUN) -m benchmarks.check

# What builds the documentation. It is not needed for anything else.
$(VENV)/docs-installed: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# The documentation as a site in site/, without a network. Broken links are errors.
docs: $(VENV)/docs-installed
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "Read it: $(RUN) -m http.server --directory=site"

# The commands of the tutorial, their output in its page, and the pictures. Half an hour; it needs Chromium.
# Without a connection: make pictures WEIGHTS=FILE, ImageNet's weights of MobileNet (alpha=0.25) without top.
pictures: $(VENV)/installed
	$(RUN) -m tools.pictures demo/tutorial --write $(if $(wildcard $(WEIGHTS)),--weights="$(WEIGHTS)")

# The drawing of the rooms and the index of the decisions in docs/.
architecture: $(VENV)/installed
	@$(RUN) -m tools.architecture
	@$(RUN) -m tools.decisions

# Whether the current commit can be released; BUILD_NOTES.md has the steps of a release.
release-check: $(VENV)/installed
	@$(RUN) -m tools.release_check

clean:
	rm -rf $(VENV) $(INTEROP) $(PEERS) $(STREAMING) $(FFCV) demo build site *.egg-info .coverage*
