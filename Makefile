# make demo: train, evaluate and look at a small model on phantom data. make test: the default test suite.
# Both build .venv first, from the exact tested set of packages: the demo's alone, or also what tests need.
PYTHON ?= python3
BIN := .venv/bin
RUN_DIR := outputs/demo/make

.PHONY: demo test lint clean

.venv/.base: EXTRAS =
.venv/.dev: EXTRAS = [dev]
.venv/.%: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.$(EXTRAS)'
	touch $@

demo: .venv/.base
	rm -rf $(RUN_DIR)
	$(BIN)/python -m sct.train +experiment=demo run_dir=$(RUN_DIR)
	$(BIN)/python -m sct.eval ckpt=$(RUN_DIR)
	@echo
	@echo "results table    $(RUN_DIR)/eval/test/table.md"
	@echo "every case       $(RUN_DIR)/eval/test/cases.csv"
	@echo "predictions      $(RUN_DIR)/eval/test/predictions/*.nii.gz"
	@echo "pictures         $(RUN_DIR)/eval/test/figures/*.png"
	@echo "TensorBoard      $(BIN)/tensorboard --logdir $(RUN_DIR)/tensorboard"
	@echo "what next        docs/getting-started/first-run.md"

# a process for every core, each with one thread (tests/conftest.py); the tests of a file stay together and share what they make
test: .venv/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv outputs/demo
