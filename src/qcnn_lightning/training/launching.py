"""`hydra/launcher=together`: which jobs of a sweep are trained as one batched network, and how they are carried out.

Every job keeps its own run: folder, lock, log, metrics, checkpoints, W&B run, status, failure, resumption.
"""

import logging
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from qcnn_lightning.data.sources.idx import DATA_SETS
from qcnn_lightning.errors import InputError
from qcnn_lightning.kernels.build import is_available
from qcnn_lightning.kernels.cpu_kernel import with_all_threads
from qcnn_lightning.runs.settings import flattened, is_free
from qcnn_lightning.training import job
from qcnn_lightning.training.run import subnormals_as_zero
from qcnn_lightning.training.together import Company, Group, acts_at_every_step
from qcnn_lightning.training.trainer import ignore_hints
from qcnn_lightning.training.turns import Seat, take_turns

log = logging.getLogger(__name__)

OF_EACH_JOB = (
    *("seed", "data.seed", "data.flatten", "optimizer", "scheduler", "model.start", "model.start_gamma"),
    *("entropy_weight", "entropy_of", "average_decay", "trainer.max_epochs"),
    *("callbacks", "logger", "run_dir", "sweep", "tags"),
)
"""Settings in which jobs that are trained together may differ; all others make the shape of what is computed."""
OF_EQUAL_DATA_SETS = ("data.name", "data.root", "data.cache", "data.system_folders")
"""Settings in which whole data sets of `idx.DATA_SETS` differ: all have 60 000 and 10 000 images of ten classes."""
LARGE = 6
"""d above which a step on a CPU is arithmetic, and what surrounds it a few percent."""


def launch(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first_number: int,
    most: Any,
) -> list[JobReturn]:
    """Carry out jobs, those of one shape together, and return how they ended, in their order.

    Args:
        context: Hydra's.
        task: carries out a job by itself.
        config: the sweep's.
        job_overrides: of every job.
        first_number: of the first job.
        most: jobs at a time.

    Raises:
        InputError: `most` is no number of jobs.
        Interrupted: SIGTERM or SIGINT came; what has been trained so far is kept.
    """
    most = checked_most(most)
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, overrides in enumerate(job_overrides, start=first_number):
        of_job = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(of_job):
            of_job.hydra.job.id = of_job.hydra.job.num = number
        jobs.append(of_job)
    names = [" ".join(filter_overrides(overrides)) for overrides in job_overrides]
    carry_out = partial(
        run_job, hydra_context=context, job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir"
    )
    ended: dict[int, JobReturn] = {}
    for group, reason in groups_of(jobs, most):
        if reason:
            log.info("%s: by itself, for %s", names[group[0]], reason)
            ended[group[0]] = carry_out(task_function=task, config=jobs[group[0]])
        else:
            listed = "".join(f"\n\t{names[place]}" for place in group)
            log.info("%d jobs together%s:%s", len(group), advice(jobs[group[0]]), listed)
            ended |= zip(group, carry_out_together(carry_out, [jobs[place] for place in group]), strict=True)
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    return [ended[place] for place in range(len(jobs))]


def checked_most(most: Any) -> int:
    """Return `hydra.launcher.most`.

    Raises:
        InputError: it is no number of jobs.
    """
    if not isinstance(most, int) or most < 1:
        raise InputError(f"hydra.launcher.most={most}: must be a whole number, 1 or more")
    return most


def groups_of(jobs: Sequence[DictConfig], most: int) -> Iterator[tuple[list[int], str]]:
    """Yield the places of jobs to carry out at a time; and, of a job by itself, why.

    Args:
        jobs: the configurations.
        most: jobs at a time.
    """
    groups: dict[Any, list[int]] = {}
    for place, of_job in enumerate(jobs):
        if reason := reason_against(of_job):
            yield [place], reason
        else:
            groups.setdefault(shape_of(of_job), []).append(place)
    for group in groups.values():
        for first in range(0, len(group), most):
            together = group[first : first + most]
            yield together, "" if len(together) > 1 else "no other job has its model, data and batches"


def shape_of(config: DictConfig) -> tuple[tuple[str, str], ...]:
    """Return the settings that jobs must share to be trained together."""
    part = {key: config[key] for key in config if key not in ("hydra", "run_dir")}
    settings = flattened(OmegaConf.to_container(OmegaConf.create(part), resolve=True))
    as_many_images = config.data.get("name") in DATA_SETS and config.data.get("classes") is None
    free = OF_EACH_JOB + OF_EQUAL_DATA_SETS if as_many_images else OF_EACH_JOB
    agreed = {key: repr(value) for key, value in settings if not is_free(key, free)}
    return tuple(sorted((agreed | {"optimizer._target_": str(config.optimizer.get("_target_"))}).items()))


def reason_against(config: DictConfig) -> str:
    """Return why a job cannot be trained together with others; "" if it can."""
    try:
        shape_of(config)
        if (model := config.model.get("_target_")) != "qcnn_lightning.QCNN":
            return f"model._target_={model} has no batched form"
        if config.trainer.get("devices", 1) not in (1, "1", "auto") or config.trainer.get("strategy", "auto") != "auto":
            return "it asks for several devices"
        if any(OmegaConf.select(config, f"hydra.job.{key}") for key in ("chdir", "env_set")):
            return "hydra.job.chdir and hydra.job.env_set are for one job in a process"
        for name, callback in (config.callbacks or {}).items():
            if callback is not None and has_hook_of_a_step(str(callback.get("_target_"))):
                return f"callbacks.{name} is called at every single step"
    except (OmegaConfBaseException, AttributeError) as error:
        return f"its settings: {error}"
    return ""


def has_hook_of_a_step(target: str) -> bool:
    """Return whether a callback's class does something at every optimisation step."""
    try:
        found = pkgutil.resolve_name(target)
    # The run says what is wrong with it.
    except Exception:
        return False
    return isinstance(found, type) and acts_at_every_step(found)


def carry_out_together(carry_out: Any, jobs: Sequence[DictConfig]) -> list[JobReturn]:
    """Carry out jobs of one shape, and return how they ended.

    Args:
        carry_out: Hydra's function for one job.
        jobs: the configurations.

    Raises:
        Interrupted: a signal came.
    """
    group = Group()

    def task_of(seat: Seat) -> TaskFunction:
        return partial(job.run_job, quiet=True, company=Company(seat, group))

    def run_of(config: DictConfig) -> Any:
        return lambda seat: carry_out(task_function=task_of(seat), config=config, configure_logging=False)

    job.silence()
    with warnings.catch_warnings(), threads_for(jobs[0]), subnormals_as_zero():
        # Runs that end restore the filters of when they began.
        ignore_hints()
        return take_turns([run_of(config) for config in jobs], group)


def threads_for(config: DictConfig) -> AbstractContextManager[None]:
    """Return the context that shares the processor's cores among what computes."""
    fused = config.model.get("kernel") != "plain" and is_on_cpu(config)
    return with_all_threads() if fused and is_available() else nullcontext()


def is_on_cpu(config: DictConfig) -> bool:
    """Return whether a job trains on a CPU."""
    return not torch.cuda.is_available() or config.trainer.get("accelerator") == "cpu"


def advice(config: DictConfig) -> str:
    """Return what else to choose for jobs like this one; "" if nothing is better."""
    large = config.model.get("d", 0) > LARGE
    told = f"; on a CPU, hydra/launcher=joblib is as good for model.d above {LARGE}"
    return told if large and is_on_cpu(config) else ""
