"""Train, sweep and load from a script or a notebook: what the command line does, in this process.

The same configuration, the same folders; the same call resumes or returns what has been trained. What the command line
changes for itself, such as logging, random numbers, signals and the environment, is the caller's here, and stays.
"""

import logging
import os
import random
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcnn_lightning.errors import InputError, NonFiniteCostError, message_of

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

    from qcnn_lightning.trained_run import Sweep, TrainedRun

log = logging.getLogger(__name__)

Override = str | Mapping[str, Any]
SIMPLE = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
WORDS_OF_THE_GRAMMAR = ("true", "false", "null", "nan", "inf")


def train(*overrides: Override, quiet: bool = False, **settings: Any) -> "TrainedRun":
    """Train a network as `qcnn-train` does, and return its run.

    The run's folder is `multirun/<sweep.name>/<overrides>`, below the current one, unless `run_dir` says otherwise. The
    same call resumes an interrupted run, and returns a finished one at once.

        train("model.d=6", "data=digits", max_epochs=20)
        train("experiment=quickstart", d=8, seed=1, logger="none")
        train({"model": {"d": 6, "sharing": "sibling"}, "data": "digits"})

    Args:
        overrides: as on the command line, such as "model.d=6" or "data=digits"; or dictionaries of them.
        quiet: print nothing.
        settings: further ones by name. A short name that is unique will do: `max_epochs` is `trainer.max_epochs`, `d`
            is `model.d`. A dictionary has the settings of a part: `model={"d": 6}`.

    Raises:
        InputError: a setting that cannot be used, or a file that cannot be read or written.
        RefusedRunError: the folder holds a run with other settings, or one that another process trains.
        NonFiniteCostError: the cost became infinite or NaN; the checkpoint of the epoch before is kept.
        KeyboardInterrupt: Ctrl-C; what has been trained so far is kept.
    """
    with callers_process(quiet):
        return train_one(command_line_of(overrides, settings), quiet)


def sweep(*overrides: Override, quiet: bool = False, **settings: Any) -> "Sweep":
    """Train a network for every combination of settings, one after the other, and return their runs.

    As `qcnn-train -m` does: the same folders, and the same call resumes. A job that fails does not end the sweep; its
    message is in `Sweep.errors`. Jobs that run at the same time need the command line: `hydra/launcher=joblib`.

        sweep("model.d=2,4", "seed=0,1", "data=digits", max_epochs=20)
        sweep(data="digits", d=[2, 4], seed=range(5))

    Args:
        overrides: as on the command line; "model.d=2,4" has two values.
        quiet: print nothing.
        settings: as `train` takes them; a list, tuple or range has several values.

    Raises:
        InputError: a setting that no job could use.
        KeyboardInterrupt: Ctrl-C; what has been trained so far is kept.
    """
    with callers_process(quiet):
        from qcnn_lightning.trained_run import Sweep, TrainedRun

        jobs = jobs_of(command_line_of(overrides, settings, sweeping=True))
        # Before anything is trained: every job is one that can be.
        folders = [Path(str(composed(job)[1].hydra.run.dir)) for job in jobs]
        runs, errors = [], {}
        for job, folder in zip(jobs, folders, strict=True):
            try:
                runs.append(train_one(job, quiet))
            except Exception as error:
                # An error that no message foresaw keeps its traceback.
                foreseen = isinstance(error, InputError | NonFiniteCostError)
                log.error("%s failed: %s", folder.name, error, exc_info=not foreseen)
                errors[folder.name] = message_of(error)
                runs.append(TrainedRun(folder))
        return Sweep(runs, errors)


def load(folder: str | Path, own: Sequence[str] = ()) -> "TrainedRun":
    """Return a run that `train`, `sweep` or the command line has trained.

    Args:
        folder: the run's, such as "multirun/paper/seed=0".
        own: your own code that the run's network may use, by dotted path: "mine.MyModel"; nothing else is executed.

    Raises:
        InputError: the folder holds no run.
    """
    with warnings.catch_warnings():
        from qcnn_lightning.runs.find import find_runs
        from qcnn_lightning.runs.run import MARKS_OF_A_RUN
        from qcnn_lightning.trained_run import TrainedRun

        if not any(Path(folder, mark).is_file() for mark in MARKS_OF_A_RUN):
            found = [run.name for run in find_runs(folder)]
            raise InputError(f"{folder} holds {len(found)} runs: give the folder of one, such as {folder}/{found[0]}")
        return TrainedRun(folder, own=own)


def load_sweep(folder: str | Path, own: Sequence[str] = ()) -> "Sweep":
    """Return all runs at or below a folder, such as "multirun/paper".

    Args:
        folder: a sweep's, or a folder of sweeps.
        own: as `load` takes it.

    Raises:
        InputError: it holds no run.
    """
    with warnings.catch_warnings():
        from qcnn_lightning.runs.find import find_runs
        from qcnn_lightning.trained_run import Sweep, TrainedRun

        return Sweep([TrainedRun(run.folder, run.name, own) for run in find_runs(folder)])


# From Python's values to the command line's words.


def command_line_of(overrides: Sequence[Override], settings: Mapping[str, Any], sweeping: bool = False) -> list[str]:
    """Return what to type for these overrides and settings.

    Raises:
        InputError: there is no such setting, or several have this name.
    """
    from qcnn_lightning.command_line import PATHS_OF_TRAINING, with_quoted_paths

    words: list[str] = []
    for override in overrides:
        if isinstance(override, Mapping):
            words += words_of("", override, sweeping)
        elif isinstance(override, str) and not override.startswith("-"):
            words += with_quoted_paths([override], PATHS_OF_TRAINING)
        else:
            raise InputError(f"{override!r}: expected an override such as 'model.d=6', or a dictionary of settings")
    for name, value in settings.items():
        words += words_of(full_name(name), value, sweeping)
    return words


def full_name(name: str) -> str:
    """Return the setting that a short name stands for.

    Raises:
        InputError: there is none, or there are several.
    """
    from qcnn_lightning.hints import known_settings, refused_setting

    known = known_settings("train")
    meant = [setting for setting in known if setting.rpartition(".")[2] == name]
    if name == "run_dir":
        # As `run_dir` alone, Hydra would make its own folder besides.
        return "hydra.run.dir"
    if name in known or name in {setting.partition(".")[0] for setting in known} | {"experiment", "debug"}:
        return name
    if len(meant) > 1:
        raise InputError(f"{name}: {' and '.join(meant)} have this name; say which, as '{meant[0]}=...'")
    if not meant:
        raise InputError(refused_setting(name))
    return meant[0]


def words_of(name: str, value: Any, sweeping: bool) -> Iterator[str]:
    """Yield what to type for a setting, or for those of a dictionary.

    Raises:
        InputError: a value that cannot be typed.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from words_of(f"{name}.{key}" if name else str(key), inner, sweeping)
    elif sweeping and isinstance(value, list | tuple | range):
        if not value:
            raise InputError(f"{name}={value}: a sweep needs at least one value")
        yield f"{name}={','.join(map(word_of, value))}"
    else:
        yield f"{name}={word_of(value)}"


def word_of(value: Any) -> str:
    """Return a value in Hydra's grammar.

    Raises:
        InputError: it is no number, text or list.
    """
    from qcnn_lightning.command_line import quoted

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str | Path):
        text = str(value)
        simple = SIMPLE.fullmatch(text) and text.lower() not in WORDS_OF_THE_GRAMMAR
        return text if simple else quoted(text)
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(word_of, value))}]"
    # NumPy's numbers, too.
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, int | float):
        raise InputError(f"{value!r} is a {type(value).__name__}: a setting is a number, a text, or a list of them")
    return repr(number)


# Hydra, without its command line.


def composed(words: list[str]) -> "tuple[Hydra, DictConfig]":
    """Return Hydra, which has read our configuration, and what a command with these words asks for.

    Raises:
        InputError: no command can have them.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_automatic_config_search_path
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    from qcnn_lightning.hints import in_our_words

    search_path = create_automatic_config_search_path(None, None, "pkg://qcnn_lightning.conf")
    # Not `hydra.compose`: that takes the place of the caller's own Hydra.
    hydra = Hydra("train", ConfigLoaderImpl(search_path))
    try:
        config = hydra.compose_config("train", words, RunMode.RUN, with_log_configuration=False)
        config.hydra.mode = RunMode.RUN
        # Whatever cannot be resolved is known before a folder is made.
        _ = config.hydra.run.dir
    except Exception as error:
        told = in_our_words(error, words)
        if told or isinstance(error, HydraException | OmegaConfBaseException):
            raise InputError(told or str(error)) from error
        raise
    return hydra, config


def jobs_of(words: list[str]) -> list[list[str]]:
    """Return the words of every job of a sweep, in Hydra's order.

    Raises:
        InputError: it is a search, or its jobs would run elsewhere.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from qcnn_lightning.hints import in_our_words
    from qcnn_lightning.training.sweep import BASIC_LAUNCHER

    parser = OverridesParser.create()
    try:
        given = parser.parse_overrides(words)
        one_of_each = BasicSweeper.split_arguments(given, None)[0][0]
        settings = composed(one_of_each)[1].hydra
        if not settings.sweeper._target_.endswith(".BasicSweeper"):
            raise InputError("a search needs the command line: qcnn-train -m hparams_search=optuna")
        if settings.launcher._target_ != BASIC_LAUNCHER:
            raise InputError("jobs run one after the other here; hydra/launcher needs the command line: qcnn-train -m")
        # What a study's file sweeps over comes first.
        swept = [f"{key}={value}" for key, value in (settings.sweeper.params or {}).items()]
        of_hydra = [word for word in words if re.match(r"\+*~?hydra[./]", word)]
        of_task = [word for word in words if word not in of_hydra]
        batches = BasicSweeper.split_arguments(parser.parse_overrides([*swept, *of_task]), None)
    except HydraException as error:
        raise InputError(in_our_words(error, words) or str(error)) from error
    return [[*of_hydra, *job] for batch in batches for job in batch]


def train_one(words: list[str], quiet: bool) -> "TrainedRun":
    """Train one network, as a command with these words does.

    Raises:
        InputError, NonFiniteCostError, KeyboardInterrupt: as `train`.
    """
    import signal

    from hydra._internal.callbacks import Callbacks
    from hydra.core.utils import run_job
    from hydra.errors import HydraException, InstantiationException
    from hydra.types import HydraContext
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from qcnn_lightning.hints import in_our_words
    from qcnn_lightning.own_parts import own_code_of
    from qcnn_lightning.trained_run import TrainedRun
    from qcnn_lightning.training import job
    from qcnn_lightning.training.folders import check_run_folder
    from qcnn_lightning.training.interruption import Interrupted

    hydra, config = composed(words)
    check_run_folder(config)

    folders = []

    def task(of_job: DictConfig) -> None:
        folders.append(str(of_job.run_dir))
        job.run_job(of_job, quiet)

    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    try:
        done = run_job(task, config, "hydra.run.dir", None, context, configure_logging=False)
    except Interrupted as interrupted:
        if interrupted.signum == signal.SIGINT:
            raise KeyboardInterrupt from interrupted
        raise
    # `return_value` would print a failure's overrides.
    error = done._return_value
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        raise InputError(in_our_words(error, words) or str(cause)) from error
    if isinstance(error, BaseException):
        raise error
    assert done.cfg is not None
    return TrainedRun(folders[0], own=own_code_of(done.cfg))


@contextmanager
def callers_process(quiet: bool) -> Iterator[None]:
    """Give back what training changes in this process: logging, warnings, environment, random numbers, Hydra's job.

    Modules of the current folder are found meanwhile, as on the command line. Messages go to the caller's handlers.
    Where logging is not set up they are printed, unless `quiet`.
    """
    with warnings.catch_warnings():
        import numpy as np
        import torch
        from hydra import version
        from hydra.core.utils import JobRuntime

        from qcnn_lightning.command_line import ignore_hydras_hint
        from qcnn_lightning.own_parts import find_modules_here

        ignore_hydras_hint()
        searched = sys.path[:]
        root, ours = logging.getLogger(), logging.getLogger("qcnn_lightning")
        loggers = [ours, *(logging.getLogger(f"pytorch_lightning{part}") for part in ("", ".profilers"))]
        levels = [logger.level for logger in loggers]
        environment, runtime = dict(os.environ), JobRuntime.instance()
        name, of_python, of_numpy = runtime.get("name"), random.getstate(), np.random.get_state()  # noqa: NPY002
        printer = logging.StreamHandler(sys.stdout)
        base = version.getbase()
        shown = [] if root.handlers or quiet else [printer]
        try:
            find_modules_here()
            version.setbase("1.3")
            ours.setLevel(min(ours.level or logging.INFO, logging.INFO))
            for handler in shown:
                ours.addHandler(handler)
            with torch.random.fork_rng(range(torch.cuda.device_count())):
                yield
        finally:
            for handler in shown:
                ours.removeHandler(handler)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            version.VersionBase.instance().version_base = base
            runtime.set("name", name)
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
            os.environ.clear()
            os.environ.update(environment)
            sys.path[:] = searched
