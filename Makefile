# Two commands matter: `make demo` and `make test`. Each makes .venv if it is missing or out of date.
# PYTHON chooses the interpreter (3.11 or newer): make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
CORPUS ?= corpus
TEACHER ?= bench/corpus/teacher.onnx
# The tests' own processes share the cores; a numeric library with threads of its own would only get in their way.
export OMP_NUM_THREADS ?= 2
# Without compiled files every process that a test starts would compile everything anew, and every worker all the tests.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help test quick lint page notebook lowest demo corpus bench gpu clean

help:
	@echo "make test             lint, types, tests, and the built wheel in an empty directory"
	@echo "make quick            lint, types and the tests that are not slow: under two minutes"
	@echo "make demo [MUSIC=dir] every stage on two dozen tunes of our own, or on your folder; ends with a report"
	@echo "make corpus           every stage on 197 real tracks (0.8 GB by apt-get, nothing is installed); docs/benchmarks.md"
	@echo "make bench            measurements of the single stages, on the corpus (after make corpus); some 45 minutes"
	@echo "make gpu              tests and measurements that wait for a GPU, in one table"
	@echo "make lint             ruff, mypy, the contracts of the imports, hadolint"
	@echo "make page             docs/config.md again, after a setting or its choices changed"
	@echo "make notebook         docs/experiments.ipynb with its outputs again, on the demo's store (after make demo)"
	@echo "make lowest           tests of store, config and export with the oldest versions that pyproject.toml allows"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	@echo "Installing student-clap and what it needs into $(VENV): 6.5 GB with CUDA. That takes minutes, once."
	$(BIN)/python -m pip install $$(test -t 1 || echo --quiet) --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Containerfile

# Many tests wait for servers and killed processes, so more of them run at once than there are cores; a file's tests stay together.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 4 --dist loadfile

# The tests without the marker `slow` hardly wait, so two workers keep two cores busy.
quick: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadfile

page: $(READY)
	$(BIN)/python docs/make_config_page.py

notebook: $(READY)
	$(BIN)/python docs/make_notebook.py

# Lower bounds that nobody runs are not true. uv alone can choose the lowest versions; it brings the lowest Python too.
lowest:
	$(PYTHON) -m venv --clear $(LOWEST)/uv
	$(LOWEST)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/uv/bin/uv venv --quiet --clear --python 3.11 $(LOWEST)/env
	$(LOWEST)/uv/bin/uv pip install --quiet --python $(LOWEST)/env/bin/python --resolution lowest-direct -e '.[dev]'
	OMP_NUM_THREADS=1 $(LOWEST)/env/bin/pytest -n 2 --dist loadfile tests/store tests/config tests/export

demo: $(READY)
	$(BIN)/student-clap demo $(if $(MUSIC),--music "$(MUSIC)" --teacher "$(TEACHER)")

corpus: $(READY)
	$(BIN)/python bench/corpus.py --work "$(CORPUS)"

bench: export OMP_NUM_THREADS = 1
bench: export OPENBLAS_NUM_THREADS = 1
bench: $(READY)
	$(BIN)/python bench/featurize.py --corpus "$(CORPUS)"
	$(BIN)/python bench/quantisation.py --corpus "$(CORPUS)" --model "$(CORPUS)/generation-b/runs/yardstick-fold-0/student.onnx"
	$(BIN)/python bench/store.py --store "$(CORPUS)/generation-b/data/features.zarr"
	$(BIN)/python bench/stream.py --store "$(CORPUS)/generation-b/data/features.zarr"
	$(BIN)/python bench/dataset.py --store "$(CORPUS)/generation-b/data/features.zarr"
	$(BIN)/python bench/students.py
	$(BIN)/python bench/teachers.py
	$(BIN)/python bench/embed.py --corpus "$(CORPUS)" --model "$(CORPUS)/generation-b/runs/yardstick-fold-0/student.onnx"
	$(BIN)/python bench/teacher_pass.py --corpus "$(CORPUS)"
	$(BIN)/python bench/workers.py --corpus "$(CORPUS)"
	$(BIN)/python bench/workers.py --memory
	$(BIN)/python bench/ingest.py
	$(BIN)/python bench/field.py --music "$(CORPUS)/audio"

gpu: $(READY)
	$(BIN)/python bench/gpu.py

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
