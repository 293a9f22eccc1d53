# make install, demo, serve, test, fuzz, lint. Every target sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: install demo serve test fuzz lint

install: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("HyperForget needs Python 3.11 or later; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)

demo: install
	@$(BIN)/hyperforget demo

serve: install
	@$(BIN)/hyperforget serve $(if $(PORT),--port $(PORT))

# Each process has servers of its own.
test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# All of schemathesis' checks, more than 2,000 requests without keys and as many with.
fuzz: install
	HYPERFORGET_FUZZ_EXAMPLES=150 $(BIN)/python -m pytest -s tests/test_schema.py

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
