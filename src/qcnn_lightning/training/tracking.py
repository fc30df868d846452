"""Weights & Biases: a run that is never lost, and panels of entanglement against cost that appear by themselves.

A W&B metric has one x-axis. So that the entropies are drawn against the epoch and against the cost without a click,
they are logged once more under `ee_vs_cost_train/` and `ee_vs_cost_test/`, with that cost as their axis.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from requests.utils import get_netrc_auth
from wandb.errors import CommError, UsageError
from wandb.sdk.lib import RunDisabled

log = logging.getLogger(__name__)

COST_AXES = {"ee_vs_cost_train": "cost/train", "ee_vs_cost_test": "cost/test"}
ENTROPY_PREFIX = "ee/"


class EntanglementTracker(WandbLogger):
    """Lightning's W&B logger, with one record per epoch and the entropies against epoch and cost.

    Online where the user is logged in (or `WANDB_MODE` says so), offline otherwise; never asks.

    Args:
        save_dir: the run's folder; W&B's files go to `wandb/` in it.
        project: W&B project.
        run_id: W&B's identity of the run, the same whenever the run is resumed.
        entity: W&B user or team; the user's default if None.
        name: what the run is called.
        group: what the runs of a sweep have in common.
        tags: labels.
        online_timeout_s: seconds to wait for the server before the run is kept offline.
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str,
        run_id: str,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = "train",
        tags: list[str] | None = None,
        online_timeout_s: float = 20,
    ):
        super().__init__(save_dir=str(save_dir), project=project, id=run_id)
        self._wandb_init |= {"entity": entity, "name": name, "group": group, "job_type": job_type, "tags": tags}
        self._online_timeout_s = online_timeout_s

    @property
    def experiment(self) -> Any:
        """The W&B run, begun when first asked for, by the first of several processes only."""
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return RunDisabled()
        if self._experiment is None:
            self._experiment = self._begin()
            define_metrics(self._experiment)
        return self._experiment

    def _begin(self) -> Any:
        settings = wandb.Settings(init_timeout=self._online_timeout_s, silent=True, console="off")
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        arguments = {key: value for key, value in self._wandb_init.items() if value is not None and key != "resume"}
        if mode == "online":
            try:
                return wandb.init(**arguments, mode="online", resume="allow", settings=settings)
            except (CommError, UsageError) as error:
                log.warning("W&B cannot be reached (%s); the run is kept offline", str(error).splitlines()[0])
                wandb.teardown()
                mode = "offline"
        run = wandb.init(**arguments, mode=mode, settings=settings)
        if mode == "offline":
            log.info("W&B is offline; to upload the run later: wandb sync %s", Path(run.dir).parent)
        return run

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration, and once more on top of it what runs are grouped by (`workspace`)."""
        grouped_by = {"data_set": params["data"]["name"], "d": params["model"]["d"]}
        super().log_hyperparams({**params, **grouped_by})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None:
        """Log one epoch, the entropies also under the names that are drawn against the costs."""
        against_cost = {
            f"{section}/{name.removeprefix(ENTROPY_PREFIX)}": value
            for name, value in metrics.items()
            for section, cost in COST_AXES.items()
            if name.startswith(ENTROPY_PREFIX) and cost in metrics
        }
        self.experiment.log({**metrics, **against_cost}, step=step)

    @rank_zero_only
    def catch_up(self, rows: Sequence[Mapping[str, float | int]]) -> None:
        """Log the epochs of a resumed run that W&B does not have yet.

        Those are the ones lost on their way when the process was killed; all of them where W&B is offline, so that the
        last process's files alone are the whole run.
        """
        for row in rows:
            step = int(row["epoch"]) + 1
            if step >= self.experiment.step:
                self.log_metrics(row, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Leave the run open: Lightning calls this after each of its loops. `close` ends it."""

    @rank_zero_only
    def close(self, exit_code: int) -> None:
        """End the run and write what is left.

        Args:
            exit_code: 0 if the run finished; W&B shows it as failed otherwise.
        """
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def define_metrics(run: Any) -> None:
    """Let every metric be drawn against the epoch, and the entropies also against train and test cost."""
    run.define_metric("epoch", hidden=True)
    run.define_metric("*", step_metric="epoch")
    for section, cost in COST_AXES.items():
        run.define_metric(f"{section}/*", step_metric=cost)


def logged_in() -> bool:
    """Return whether W&B knows an API key for its server, from the environment, its settings or a netrc file."""
    settings = wandb.setup().settings
    return bool(settings.api_key or get_netrc_auth(settings.base_url))
