# `make` alone tells what there is.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
UP ?=

.PHONY: help
help: ## Tell what each target does
	@awk -F':.*## ' '/^[a-z.-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: uv.lock pyproject.toml tools/env.py
	@$(PYTHON) tools/env.py
	@touch $@

.PHONY: env
env: .venv/.installed ## Create .venv from the lock

.PHONY: up
up: env ## Bring the whole hub up, with data in it (UP="--port 8080" for flags)
	@$(BIN)/thalweg up $(UP)

.PHONY: down
down: env ## Stop the hub; data is kept
	@$(BIN)/thalweg down

.PHONY: test
test: env ## Run all tests: units, real servers, a real browser
	@$(BIN)/python -m pytest tests/e2e --durations=10
	@$(BIN)/python -m pytest --ignore=tests/e2e -n 2 --dist loadfile --durations=30

.PHONY: test-fast
test-fast: env ## Run the tests that do not start the whole hub
	@$(BIN)/python -m pytest -m "not e2e and not hub" -n 2 --dist loadfile

.PHONY: accounts-test
accounts-test: env ## As root: what one user of this machine can do to what is another's
	@$(BIN)/python -m pytest tests/e2e/test_people_apart.py --durations=10

.PHONY: chart-test
chart-test: env ## Render the chart with helm and check what it makes; THALWEG_CHARTS=folder of its parts
	@$(BIN)/python -m pytest tests/chart

.PHONY: lint
lint: env ## Check style, types and data files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/yamllint --strict .
	@$(BIN)/nbstripout --verify $$(git ls-files '*.ipynb')

.PHONY: fmt
fmt: env ## Format the code
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .
	@$(BIN)/nbstripout $$(git ls-files '*.ipynb')

.PHONY: docs
docs: env ## Build the documentation into docs/_build
	@$(BIN)/sphinx-build -W -q -b html docs docs/_build

.PHONY: bench
bench: env ## Measure: start, idle memory, run overhead; prints tables
	@$(BIN)/python -m benchmarks

.PHONY: environment.yml
environment.yml: env ## Write the image's conda environment from the lock
	@$(BIN)/python tools/environment_yml.py

# Checkers whose dependencies are not ours, each in an environment of its own.
UV = $(firstword $(shell command -v uv) .uv/bin/uv)
.cache/%/.installed: tools/requirements/%.txt | .venv/.installed
	@$(UV) venv --quiet --clear --python $(BIN)/python .cache/$*
	@$(UV) pip install --quiet --python .cache/$*/bin/python -r $<
	@touch $@

.PHONY: terraform-test
terraform-test: .cache/checkov/.installed ## Check Terraform's files with a mocked AWS, and with checkov
	@$(BIN)/python -m pytest tests/terraform/test_modules.py tests/terraform/test_identity.py --durations=5

.PHONY: terraform-apply-test
terraform-apply-test: .cache/moto/.installed ## Apply and destroy dev against a stand-in of AWS on this machine
	@$(BIN)/python -m pytest tests/terraform/test_apply.py --durations=5

.PHONY: workflows-test
workflows-test: .cache/workflows/.installed ## Check GitHub's workflows: form, pins, permissions, injection
	@PATH="$(CURDIR)/.cache/workflows/bin:$$PATH" actionlint
	@.cache/workflows/bin/zizmor --offline --quiet .github
