# The README's commands. `make demo` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench report clean

demo: $(READY)
	$(BIN)/python train.py +experiment=demo hydra.run.dir=outputs/demo
	$(BIN)/python dedup.py checkpoint=outputs/demo/model.ckpt catalog=rendered out=outputs/demo
	$(BIN)/python review.py sample found=outputs/demo precision=0.9
	@echo "Open outputs/demo/index.html; the duplicates are in outputs/demo/duplicates.json"
	@echo "Judge outputs/demo/review/index.html to prove how many are right (review.py certify found=outputs/demo)"

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: $(READY)
	$(BIN)/python report.py experiments=experiments

bench: $(READY)
	$(BIN)/python benchmarks/train_overhead.py
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/image_pass.py --rounds 3
	$(BIN)/python benchmarks/join.py
	$(BIN)/python benchmarks/verification_scale.py
	$(BIN)/python benchmarks/guarantee.py --repetitions 100

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[weights,dev]'
	touch $@

clean:
	rm -rf $(VENV) outputs .cache
