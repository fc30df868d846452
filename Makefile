# Every target prepares what it needs: a fresh machine has Python 3.11 or newer with venv and pip, nothing else.
PYTHON ?= python3
VENV := .venv
CAN_TRAIN := $(VENV)/.can-train
INSTALLED := $(VENV)/.installed
EXTRAS := [dashboard,dev,docs,optuna,slurm,tensorboard]

STUDIES := reproduction paper_start up_down reproduction_d40 best_mnist best_mnist_sum best_fmnist best_fmnist_16x16 best_fmnist_sum ablation intervention overfitting cross_entropy cross_entropy_best embedding density_intervention classifier_intervention density_classes density_classes_8bit intervention_scales relatives relatives_160k density

.DEFAULT_GOAL := help
.PHONY: help setup newest train studies results report-page docs test lint format clean

help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

# Install the package, editable, with the extras of $(1), and import it, which takes long the first time. pip is silent for
# minutes while it downloads and unpacks PyTorch: every five seconds a line says how far it is.
define install
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "error: '$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@begun=$$(date +%s); while sleep 5 >/dev/null; kill -0 $$$$ 2>/dev/null; do \
		echo "installing: $$(($$(date +%s) - begun)) s, $$(du -sm $(VENV) | cut -f1) MB in $(VENV)"; \
	done & teller=$$!; trap "kill $$teller" EXIT; \
	$(VENV)/bin/python -m pip install --progress-bar off --disable-pip-version-check --editable '.$(1)' && \
	$(VENV)/bin/python -c 'import qcnn_lightning.training.run'
	@touch $@
endef

setup: $(INSTALLED) ## Prepare .venv with the package, editable, and everything that tests, docs and sweeps need

$(CAN_TRAIN): pyproject.toml
	$(call install,)

$(INSTALLED): pyproject.toml
	$(call install,$(EXTRAS))
	@touch $(CAN_TRAIN)

newest: $(INSTALLED) ## Install the newest releases of what pyproject.toml has upper bounds for
	@$(VENV)/bin/python -m pip install --progress-bar off --upgrade hydra-core pytorch-lightning wandb wandb-workspaces

train: $(CAN_TRAIN) ## Train: make train ARGS="model.d=18 data=fmnist"
	@$(VENV)/bin/python -m qcnn_lightning.train $(ARGS)
	@command -v qcnn-train >/dev/null || echo "first     source $(VENV)/bin/activate"

studies: $(INSTALLED) ## Run or resume the studies in reproduction/, but for stored runs, a job per core: make studies STUDIES="up_down"
	@for study in $(STUDIES); do \
		$(VENV)/bin/python -m reproduction.restore_runs reproduction/metrics/$$study.tar.xz multirun && \
		$(VENV)/bin/python -m qcnn_lightning.train --config-dir reproduction/conf -m sweep=$$study hydra/launcher=joblib $(ARGS) \
			|| unfinished="$$unfinished $$study"; \
		$(VENV)/bin/python -m reproduction.keep_runs multirun/$$study reproduction/metrics; \
	done; \
	test -z "$$unfinished" || { echo "error: not finished:$$unfinished; the same command resumes them" >&2; exit 1; }

results: $(INSTALLED) ## Draw all figures and tables of the results again, from stored runs
	@$(VENV)/bin/python -m reproduction.draw_results

report-page: $(INSTALLED) ## Draw the report of the reproduction's stored runs: multirun/reproduction/report/report.html
	@for study in reproduction reproduction_d40 up_down; do \
		$(VENV)/bin/python -m reproduction.restore_runs reproduction/metrics/$$study.tar.xz multirun || exit 1; \
	done
	@$(VENV)/bin/python -m qcnn_lightning.report 'runs=[multirun/reproduction,multirun/reproduction_d40,multirun/up_down]' \
		out=multirun/reproduction/report $(ARGS)

docs: $(INSTALLED) ## Build the documentation site: build/site/index.html
	@$(MAKE) --no-print-directory report-page ARGS='out=build/report figures=[]'
	@$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/site
	@echo '<meta http-equiv="refresh" content="0; url=docs/index.html">' > build/site/index.html
	@echo "site      build/site/index.html"

test: $(INSTALLED) ## Run the tests, a process per core: make test ARGS="tests/states -k entropy"
	@$(VENV)/bin/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal $(ARGS)

lint: $(INSTALLED) ## Check style and types
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

format: $(INSTALLED) ## Mend what can be mended
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

clean: ## Remove the environment and caches; data and results stay
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
