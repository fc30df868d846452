"""What to type instead: the nearest setting, the choices of a group, the package to install.

Hydra refuses a setting that it does not know and suggests `+setting=value`, which nobody would read. Here the same
refusals are put in one line that helps, and settings that came in with a `+` are checked as well.
"""

import difflib
import functools
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from qcnn_lightning.errors import InputError
from qcnn_lightning.runs.settings import RENAMED, flattened

CONF = Path(str(files("qcnn_lightning.conf")))
GLOBAL_GROUPS = ("experiment", "debug", "hparams_search", "sweep")
"""Groups whose files change any setting; they leave no setting of their own."""
RESUMES = "the same command resumes a run by itself; python -m qcnn_lightning.evaluate run=<folder> measures one"
EVERY_EPOCH = "a run trains, and measures training and test images after every epoch"
IN_MEMORY = "batches are slices of images that lie in memory: nothing loads them"
KEPT = "a run keeps its last, its previous and its best checkpoint by itself"
HABITS = {
    "ckpt_path": RESUMES,
    "resume": RESUMES,
    "train": EVERY_EPOCH,
    "test": EVERY_EPOCH,
    "task_name": "sweep.name names the folder in multirun/, tags=[word] labels a run",
    "name": "logger.name names the run in W&B, sweep.name the folder in multirun/",
    "local": "put your own defaults in a folder: --config-dir conf, experiment=mine",
    "extras": "--cfg job prints the configuration, tags=[word] labels a run",
    "paths.data_dir": "data.root is where files are looked for",
    "data.data_dir": "data.root is where files are looked for",
    "paths": "results go to multirun/<sweep.name>/<settings>, or to hydra.run.dir",
    "data.num_workers": IN_MEMORY,
    "data.pin_memory": IN_MEMORY,
    "data.train_val_test_split": "data.val_size is how many training images to hold out",
    "model.optimizer": "the optimiser is a part of its own: optimizer=adamw|adam|sgd, optimizer.lr",
    "model.scheduler": "the schedule is a part of its own: scheduler=halving|one_cycle|constant",
    "model.lr": "optimizer.lr",
    "model.compile": "model.kernel=auto is compiled C++ where that fits",
    "model.dtype": "weights may be complex for model=convac, ttn, mps or density",
    "model.net": "model.d and model.sharing make the network; model=own takes your own",
    "callbacks.early_stopping": "choose callbacks=early_stopping first",
    "callbacks.model_checkpoint": KEPT,
    "optimized_metric": "a search maximises the last accuracy on the images that data.val_size holds out",
}
"""Settings of lightning-hydra-template, and others that people type -> what to say instead."""
CHOICE_HABITS = {
    "callbacks=model_checkpoint": KEPT,
    "callbacks=rich_progress_bar": "a run prints a row per epoch by itself",
    "debug=profiler": "+trainer.profiler=simple",
    "cost=nll": "cost=cross_entropy is the negative log likelihood of the label",
    "trainer=ddp_sim": "trainer=ddp trainer.accelerator=cpu",
}
EXTRAS = {
    "hydra_ray_launcher": ("hydra/launcher=ray", "ray"),
    "hydra_submitit_launcher": ("hydra/launcher=slurm", "slurm"),
    "hydra_optuna_sweeper": ("hydra/sweeper=search", "optuna"),
    "optuna": ("hydra/sweeper=search", "optuna"),
}
"""A package in a message -> the choice that needs it, and the extra to install."""

SHORT_LOOK = "for a short look choose data=digits or trainer.max_epochs=1"
WHOLE_EPOCHS = "every epoch trains and measures on all images: leave it out"
ONE_STEP = (
    "every batch is one optimisation step with its whole gradient (eq. 48): leave it out, and choose data.batch_size "
    "and optimizer.lr"
)
OURS = "a run sets it itself: leave it out"
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_clip_val": ((None, 0), ONE_STEP),
    "accumulate_grad_batches": ((None, 1), ONE_STEP),
    "check_val_every_n_epoch": ((1,), "a run has a row for every epoch: leave it out"),
    "val_check_interval": ((None, 1.0), "a run has a row for every epoch: leave it out"),
    "limit_train_batches": (
        (None, 1.0),
        f"{WHOLE_EPOCHS}; {SHORT_LOOK}",
    ),
    "limit_val_batches": ((None, 1.0), WHOLE_EPOCHS),
    "overfit_batches": ((0, 0.0), f"{WHOLE_EPOCHS}; {SHORT_LOOK}"),
    "fast_dev_run": ((False,), f"it leaves no results; {SHORT_LOOK}"),
    "max_time": (
        (None,),
        "a run ends after trainer.max_epochs; to stop it by the clock say `timeout 1h python -m ...`: the same command "
        "resumes it",
    ),
    "max_steps": ((None, -1), "a run ends after trainer.max_epochs, so that every epoch is whole: leave it out"),
    "min_steps": ((None,), "a run ends after trainer.max_epochs: leave it out"),
    "callbacks": ((), "callbacks are a part of their own: +callbacks.<name>._target_=<class>"),
    "logger": ((), "the logger is a part of its own: logger=wandb|mlflow|tensorboard|many_loggers|csv|none"),
    "plugins": ((), OURS),
    "enable_progress_bar": ((), OURS),
    "enable_model_summary": ((), OURS),
    "enable_checkpointing": ((True,), "a run keeps checkpoints so that it can be resumed: leave it out"),
    "num_sanity_val_steps": ((), OURS),
    "use_distributed_sampler": ((), OURS),
    "default_root_dir": ((), "results go to hydra.run.dir"),
    "reload_dataloaders_every_n_epochs": ((0,), OURS),
    "inference_mode": ((True,), OURS),
}
"""Settings of the Trainer that a run cannot have: the values that change nothing, and what to do instead."""


def in_our_words(error: BaseException, given: Sequence[str] | None = None) -> str | None:
    """Return one line for an error of Hydra's that a user's typing has caused; None for any other.

    Args:
        error: Hydra's.
        given: the words that were typed; None for this process's.
    """
    given = sys.argv[1:] if given is None else given
    message = str(error)
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)/([^/']+)'", message)):
        return refused_choice(*found.groups())
    if isinstance(error, HydraException):
        if found := re.search(r"Could not override '(.+?)'", message):
            return refused_setting(found[1], given_value(found[1], given))
        if found := re.search(r"An item is already at '(.+?)'", message):
            return f"+{found[1]}: {found[1]} is a setting already; leave out the +"
        if found := re.search(r"Could not delete '(.+?)'", message):
            return f"~{found[1]}: there is no such setting; {found[1]}=none leaves out a part where that is a choice"
    package = re.search(r"Unknown plugin class : 'hydra_plugins\.(\w+)|No module named '(optuna)", messages_of(error))
    if package and (needed := EXTRAS.get(package[1] or package[2])):
        return f"{needed[0]} needs a package that is not installed: pip install 'qcnn-lightning[{needed[1]}]'"
    if type(error).__module__.startswith("submitit"):
        return f"the cluster did not take the jobs: {message.strip().splitlines()[-1]}"
    if message.startswith("Only one of --run, --multirun"):
        return "--cfg, --info and -m exclude each other: leave out -m to see the configuration of one job"
    if "Config group override must be a string or a list" in message:
        empty = next((argument for argument in given if argument.partition("=")[2] in ("null", "")), "<part>=null")
        part = empty.partition("=")[0].lstrip("+")
        return f"{empty}: a part cannot be null; choose one of {', '.join(choices().get(part, ['none']))}"
    return None


def messages_of(error: BaseException) -> str:
    """Return the messages of an error and of its causes."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    # An error may have been raised from one that it has caused.
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__
    return "\n".join(map(str, chain))


def refused_setting(key: str, value: str = "") -> str:
    """Return what to type instead of a setting that there is not."""
    told = f"{key}={value}" if value else key
    if key in RENAMED:
        return f"{key} is now called {RENAMED[key]}"
    if key.startswith("trainer."):
        if reason := REFUSED.get(key.removeprefix("trainer.")):
            return f"{told}: {reason[1]}"
        if key.removeprefix("trainer.") in names_of(pkgutil.resolve_name("pytorch_lightning.Trainer")):
            return f"{told}: Lightning's own setting; say +{told}"
    habit = next((said for habit, said in HABITS.items() if f"{key}.".startswith(f"{habit}.")), None)
    if habit:
        return f"{told}: there is no such setting; {habit}"
    if owners := choices_with(key):
        return (
            f"{told}: there is no such setting here; {' and '.join(owners)} {'has' if len(owners) == 1 else 'have'} it"
        )
    return f"{told}: there is no such setting; {nearest(key, known_settings())}"


def choices_with(key: str) -> list[str]:
    """Return the choices of a group that have a setting, such as ["model=mps", "model=ttn"] for "model.bond"."""
    group = key.partition(".")[0]
    contents = {name: content_of(CONF / group / f"{name}.yaml") for name in choices().get(group, ())}
    return [f"{group}={name}" for name, content in contents.items() if key in dict(flattened(content, group))]


def content_of(file: Path) -> dict[str, Any]:
    """Return what one of our configuration files holds."""
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def refused_choice(group: str, choice: str) -> str:
    """Return what to choose instead of a file that there is not."""
    told, there = f"{group}={choice}", choices().get(group, [])
    if habit := CHOICE_HABITS.get(told):
        return f"{told}: there is no such choice; {habit}"
    close = difflib.get_close_matches(choice, there, n=1)
    meant = f"; did you mean {group}={close[0]}?" if close else ""
    return f"{told}: choose one of {', '.join(there)}{meant}" if there else f"{told}: there are no choices of {group}"


def nearest(key: str, known: Iterable[str]) -> str:
    """Return which of the known settings was probably meant, and how to see them all."""
    known = list(known)
    last = key.rpartition(".")[2].casefold()
    same = [setting for setting in known if setting.rpartition(".")[2].casefold() == last]
    inside = [setting for setting in known if last and last in setting.casefold().rpartition(".")[2]]
    close = same[:2] or difflib.get_close_matches(key, known, n=1, cutoff=0.7) or inside[:2]
    return f"the nearest is {' or '.join(close)}" if close else "--help shows all settings"


def check_settings(config: DictConfig) -> None:
    """Check that somebody reads every setting of a run: those that came in with a `+`, too.

    Raises:
        InputError: nobody does; the message has the nearest one.
    """
    if missing := [part for part in PARTS if part not in config]:
        raise InputError(
            f"~{missing[0]}: a run needs this part; {missing[0]}=none leaves it out where that is a choice"
        )
    known = set(known_settings("train"))
    parts = {key.partition(".")[0] for key in known}
    plain: Any = OmegaConf.to_container(config)
    for part, settings in plain.items():
        if part not in parts:
            raise InputError(refused_setting(part, "" if isinstance(settings, Mapping) else str(settings)))
        # A data source reads its own, and other settings refer to those of a sweep.
        if part not in ("data", "sweep"):
            check_part(part, settings, known)


PARTS = ("model", "cost", "data", "optimizer", "scheduler", "trainer", "callbacks", "logger")


def check_part(key: str, settings: Any, known: set[str]) -> None:
    """Check the settings of a part: against the class that it names, or else against those that our files have.

    Raises:
        InputError: one is unknown.
    """
    if not isinstance(settings, Mapping):
        # callbacks.<name>=null leaves one out.
        if settings is not None and key not in known:
            raise InputError(refused_setting(key, str(settings)))
        return
    if "_target_" not in settings:
        for name, value in settings.items():
            check_part(f"{key}.{name}", value, known)
        return
    try:
        names = names_of(pkgutil.resolve_name(settings["_target_"]))
    # Whoever builds the part says what is wrong with it.
    except Exception:
        return
    for name in settings:
        if names and not name.startswith("_") and name not in names:
            raise InputError(
                f"{key}.{name}={settings[name]}: {settings['_target_'].rpartition('.')[2]} has no such setting; "
                f"{nearest(f'{key}.{name}', [f'{key}.{known}' for known in names])}"
            )


def names_of(target: Any) -> tuple[str, ...]:
    """Return the arguments that a class or function takes by name; none if it takes any."""
    parameters = inspect.signature(target).parameters
    if any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ()
    return tuple(name for name in parameters if name != "self")


def given_value(key: str, given: Iterable[str]) -> str:
    """Return what a command line gives a setting; empty if it does not."""
    return next((value for name, _, value in (word.partition("=") for word in given) if name == key), "")


def command_here() -> str:
    """Return which command this process is: "train", "evaluate", ..."""
    started = Path(sys.argv[0])
    name = started.parent.name if started.stem == "__main__" else started.stem.removeprefix("qcnn-")
    return name if name in ("evaluate", "predict", "sample", "compress", "report", "dashboard") else "train"


def known_settings(command: str | None = None) -> tuple[str, ...]:
    """Return every setting that our configuration of a command has, as "model.d", in order."""
    return _known_settings(command or command_here())


@functools.cache
def _known_settings(command: str) -> tuple[str, ...]:
    root = content_of(CONF / f"{command}.yaml")
    parts = [name for entry in root.pop("defaults") if isinstance(entry, Mapping) for name in entry]
    groups = [part for part in parts if " " not in part and part not in GLOBAL_GROUPS]
    found = [*groups, *(key for key, _ in flattened({key: root[key] for key in root if key != "hydra"}))]
    for group in groups:
        for file in sorted((CONF / group).rglob("*.yaml")):
            content = content_of(file)
            content.pop("defaults", None)
            found += [key for key, _ in flattened(content, group)]
    return tuple(dict.fromkeys(found))


def choices() -> dict[str, list[str]]:
    """Return the choices of every group: "model" -> ["own", "qcnn"]."""
    folders = [folder for folder in CONF.rglob("*") if folder.is_dir() and folder.name != "shared"]
    found = {str(folder.relative_to(CONF)): sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}
    return {group: names for group, names in found.items() if names}
