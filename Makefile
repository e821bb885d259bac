# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test docs lint format clean

train: $(STAMP)
	$(BIN)/python main.py

test: $(STAMP)
	$(BIN)/python run_tests.py

# The documentation as a site in build/site; warnings are errors.
docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -n -q -c docs/site . build/site
	@echo "open build/site/index.html"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/black --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/black .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache htmlcov .coverage build *.egg-info
