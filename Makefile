# Everything is installed into .venv, nothing outside it.

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALL := $(PIP) install --prefer-binary
STAMP := .venv/.installed
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
# Run, not looked up: a version manager's shim exists for versions that are not active.
PYTHON ?= $(shell for c in python3 python3.12 python3.11 python3.10; do \
	$$c -c '$(SUPPORTED)' 2>/dev/null && echo $$c && break; done)

.PHONY: install demo test test-gpu mutants lint bench bench-gpu mmcv-ops clean

install: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt constraints.txt pyproject.toml
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
		found=$$("$(or $(PYTHON),python3)" --version 2>/dev/null); \
		echo "Python 3.10, 3.11 or 3.12 is needed; found $${found:-none}. Set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo 'Installing into .venv (about 3 minutes, 7 GB) …'
	@rm -f $@
	@$(PIP) --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	@$(INSTALL) -r requirements-dev.txt -c constraints.txt
# opencv-python loads libGL, libX11 and glib, which servers lack; the headless build of the same version does not.
# It goes over the other's files: uninstalling opencv-python first would leave mmcv without a dependency it declares.
	@$(INSTALL) --force-reinstall --no-deps $$(sed -n 's/^opencv-python==/opencv-python-headless==/p' requirements.txt)
	@$(INSTALL) --no-deps -e .
	@touch $@

demo: $(STAMP)
	$(BIN)/segrecipes synthesize --path demo/data
	test -d demo/mds/val || $(BIN)/segrecipes convert demo/data --out demo/mds --name synthetic --overwrite
	$(IN_VENV) composer main.py yamls/demo.yaml recipe_name=mild
	$(BIN)/segrecipes report demo/run
	@echo
	@echo 'Open demo/run/report.html: how good the network is, and where it fails. The network is demo/run/best-rank0.pt.'
	@echo 'Next: use it, train with another recipe, or on your own data, as the README has it:'
	@echo '  export PATH=$$PWD/.venv/bin:$$PATH'
	@echo '  segrecipes predict demo/run/best-rank0.pt demo/data/ADEChallengeData2016/images/validation --out demo/predictions'
	@echo '  composer main.py yamls/demo.yaml recipe_name=medium'

test: $(STAMP)
	$(IN_VENV) python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# For a GPU nothing is installed: the first Python here that has these packages runs, PYTHON first.
HAS := import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))
python_with = $(shell for c in "$(PYTHON)" python $(BIN)/python; do \
	"$$c" -c '$(HAS)' $(1) 2>/dev/null && echo "$$c" && break; done)
none_with = { echo 'No Python with $(1) found. Set PYTHON=/path/to/python' >&2; exit 1; }

test-gpu:
	@python='$(call python_with,torch pytest)'; test "$$python" || $(call none_with,torch and pytest); \
		"$$python" -m pytest -m gpu $(ARGS) $$(grep -rl 'mark\.gpu' tests --include='test_*.py')

# Small faults in the package, of which the tests should notice nearly all; cosmic-ray has an environment of its own.
mutants: $(STAMP)
	@test -x .venv-mutants/bin/cosmic-ray || { "$(PYTHON)" -m venv .venv-mutants && \
		.venv-mutants/bin/python -m pip --disable-pip-version-check -q install cosmic-ray==8.7.0; }
	.venv-mutants/bin/python tests/mutants.py --python $(CURDIR)/$(BIN)/python $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(IN_VENV) lint-imports
	$(IN_VENV) pyright

scripts = $(shell awk '/ $(1)/ {print $$1}' $(dir $(firstword $(MAKEFILE_LIST)))benchmarks/scripts.txt)

# Each appends its record to benchmarks/records; the table is made from the last ones.
bench: $(STAMP)
	for script in $(call scripts,cpu); do \
		$(BIN)/python benchmarks/$$script.py || exit 1; done
	for script in $(if $(DATA),$(call scripts,camvid)); do \
		$(BIN)/python benchmarks/$$script.py "$(DATA)" || exit 1; done
	$(BIN)/python benchmarks/table.py

bench-gpu:
	@python='$(call python_with,torch)'; test "$$python" || $(call none_with,torch); \
		for script in $(call scripts,gpu); do \
		"$$python" benchmarks/$$script.py || exit 1; done; \
		for script in $(if $(DATA),$(call scripts,photographs)); do \
		"$$python" benchmarks/$$script.py "$(DATA)" || exit 1; done

# mmcv 2 is on PyPI as source only, and its setup.py imports torch. The wheel is built before mmcv-lite goes.
mmcv-ops: $(STAMP)
	@echo 'Building mmcv into .venv (5 minutes or more) …'
	@rm -rf .venv/mmcv-wheel
	@$(PIP) wheel --no-build-isolation --use-pep517 --no-deps -w .venv/mmcv-wheel \
		$$(sed -n 's/^mmcv-lite==/mmcv==/p' requirements.txt)
	@$(PIP) uninstall -y mmcv-lite
	@$(INSTALL) --force-reinstall --no-deps .venv/mmcv-wheel/mmcv-*.whl

clean:
	rm -rf .venv .venv-mutants demo .pytest_cache .ruff_cache __pycache__ */__pycache__
