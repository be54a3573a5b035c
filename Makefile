# make demo: train, evaluate and look at a small model on phantom data. make test: the default test suite.
# Both build .venv first, from the exact tested set of packages.
PYTHON ?= python3
BIN := .venv/bin
RUN_DIR := outputs/demo/make

.PHONY: demo test lint clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.installed
	rm -rf $(RUN_DIR)
	$(BIN)/python -m sct.train +experiment=demo run_dir=$(RUN_DIR)
	$(BIN)/python -m sct.eval ckpt=$(RUN_DIR)
	@echo
	@echo "results table    $(RUN_DIR)/eval/test/table.md"
	@echo "every case       $(RUN_DIR)/eval/test/cases.csv"
	@echo "predictions      $(RUN_DIR)/eval/test/predictions/*.nii.gz"
	@echo "pictures         $(RUN_DIR)/eval/test/figures/*.png"
	@echo "TensorBoard      $(BIN)/tensorboard --logdir $(RUN_DIR)/tensorboard"

test: .venv/.installed
	$(BIN)/python -m pytest

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv outputs/demo
