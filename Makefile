# make demo            reconstruct a real head from simulated k-space, with a report (out/)
# make demo QUICK=1    the same, small (out/quick)
# make test            the whole test suite
# make lint            style, types and layers, the latter two on an installed copy
# make wheel           wheel and source archive (dist/)
# make clean           remove what the above made, the environment included

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := build/installed

ifdef QUICK
OUT := out/quick
SIMULATE := --slices 84:92
RECON := --samples 2 --steps 10 --threads 1
SPEED := --threads 1
else
OUT := out
SIMULATE := --slices 70:106
RECON := --samples 3
endif

.DELETE_ON_ERROR:
.PHONY: demo test lint wheel clean

demo: $(READY)
	@mkdir -p $(OUT)
	$(BIN)/medsci recon simulate mri -i sample_data/colin27_t1.nii.gz -o $(OUT)/kspace.h5 \
	    --acceleration 4 --coils 8 --noise 0.01 --seed 0 $(SIMULATE) --overwrite
	$(BIN)/medsci recon mri -i $(OUT)/kspace.h5 -o $(OUT)/recon.nii.gz \
	    --prior brain-t1-2d $(RECON) --seed 0 --report $(OUT)/report.html --overwrite
	$(BIN)/medsci models speed brain-t1-2d $(SPEED)
	@echo "report: $(OUT)/report.html"

test: $(READY)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q

lint: $(READY) wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-deps --target $(INSTALLED) dist/*.whl
	cd $(INSTALLED) && MYPYPATH=. $(CURDIR)/$(BIN)/mypy -p medsci \
	    --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
	cd $(INSTALLED) && PYTHONPATH=. $(CURDIR)/$(BIN)/lint-imports --no-cache \
	    --config $(CURDIR)/pyproject.toml

wheel: $(READY)
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist .

clean:
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	    .import_linter_cache .hypothesis

# The first Python that is 3.11 or newer; constraints.txt was written with 3.11, so that comes first.
$(READY): pyproject.toml constraints.txt
	@for python in python3.11 python3 python3.12 python3.13 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 or newer was found; install python3.11 and its venv module" >&2; \
	    exit 1; fi; \
	echo "creating $(VENV) with $$($$found --version)"; \
	$$found -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
