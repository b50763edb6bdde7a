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
	@$(BIN)/python -m pytest --ignore=tests/e2e -n 2 --dist loadfile --no-loadscope-reorder --durations=30

.PHONY: test-fast
test-fast: env ## Run the tests that do not start the whole hub
	@$(BIN)/python -m pytest -m "not e2e and not hub" -n 2 --dist loadfile

.PHONY: accounts-test
accounts-test: env ## As root: what one user of this machine can do to what is another's
	@ACCOUNTS=must $(BIN)/python -m pytest tests/e2e/test_people_apart.py --durations=10

.PHONY: chart-test
chart-test: env ## Render the chart with helm and check what it makes; THALWEG_CHARTS=folder of its parts
	@$(BIN)/python -m pytest tests/chart

.PHONY: chart-record
chart-record: env ## Record, at a release, what the next version's upgrade is held to
	@$(BIN)/python tests/chart/rendered.py "$$(git describe --always --tags)" > .released.json
	@mv .released.json tests/chart/released.json

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
environment.yml: env ## Write a conda environment like the image from the lock
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

# The image is built by buildah, as root. Storage driver vfs works on every file system and copies each
# layer whole; DRIVER=overlay does not. CACHE= takes what it knows of steps whose words have not changed:
# buildah 1.28 does not see that what they mount has.
BASE ?= $(shell sed -n 's/^ARG BASE=//p' image/Dockerfile)
IMAGE ?= localhost/thalweg:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGES ?= $(CURDIR)/.cache/images
DRIVER ?= vfs
CACHE ?= --no-cache
BUILDAH = buildah --root $(IMAGES)/store --runroot $(IMAGES)/run --storage-driver $(DRIVER)
BUILD ?=

.PHONY: image-base
image-base: ## Make a base without a registry: Debian, for `make image BASE=localhost/debian`
	@mkdir -p $(IMAGES)
	@mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3 trixie $(IMAGES)/debian.tar
	@container=$$($(BUILDAH) from scratch) && $(BUILDAH) add --quiet $$container $(IMAGES)/debian.tar / && \
		$(BUILDAH) commit --quiet --rm $$container localhost/debian
	@rm $(IMAGES)/debian.tar

.PHONY: image
image: env ## Build the one image, print what its layers take (BUILD="flags of buildah")
	@$(BUILDAH) build --isolation chroot --format docker --layers $(CACHE) --build-arg BASE=$(BASE) $(BUILD) \
		--ignorefile image/Dockerfile.dockerignore --file image/Dockerfile --tag $(IMAGE) \
		--label org.opencontainers.image.version=$(lastword $(subst :, ,$(IMAGE))) \
		--label org.opencontainers.image.revision=$$(git rev-parse HEAD) .
	@$(BUILDAH) push --quiet --disable-compression $(IMAGE) dir:$(IMAGES)/dir
	@$(BIN)/python tools/image_size.py $(IMAGES)/dir

# On a network where nothing answers, and nothing refuses either.
.PHONY: image-test
image-test: .cache/image/.installed ## Check the built image: each role, as uid 1000, on a root that is read-only
	@.cache/image/bin/hadolint image/Dockerfile
	@container=$$($(BUILDAH) from --pull-never $(IMAGE)) && trap "$(BUILDAH) rm $$container >/dev/null" EXIT && \
		IMAGE_TREE=$$($(BUILDAH) mount $$container) IMAGE_DIR=$(IMAGES)/dir unshare --net sh -c \
		'ip link set lo up && ip route add default dev lo && exec $(BIN)/python -m pytest tests/image/test_tree.py --durations=20'

.PHONY: image-clean
image-clean: ## Remove what `make image` keeps to build the next one faster
	@$(BUILDAH) rm --all >/dev/null
	@$(BUILDAH) rmi --all --force >/dev/null
	@rm -rf $(IMAGES)
