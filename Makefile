# make train: set up .venv and train the default tokenizer.  make test: set up with the dev extra and run the tests,
# in as many processes as there are cores, each of one thread: most tests are too small for more.
# make docs: the site into site/.  make types: pyright over the public interface.  make dist: packages into dist/.
# PYTHON=python3.12 picks the interpreter; ARGS="quantizer=vq_cosine" and the like are handed on.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: train test docs types dist clean

train: $(VENV)/.installed
	$(BIN)/python train.py $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

types: $(VENV)/.installed-dev
	$(BIN)/pyright --venvpath . $(ARGS)

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "vistok needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info tokenizers/*.egg-info
