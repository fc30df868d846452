"""One evaluation, from its configuration to its files."""

import logging
import re
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from qcnn_lightning.command_line import switch
from qcnn_lightning.data.flattening import FLATTENINGS, mirror_levels
from qcnn_lightning.data.sources import SOURCES
from qcnn_lightning.data.split_images import STORED_AS, SplitImages
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.ensemble import Ensemble, MirrorImage, check_same_images, class_model, one_of_each_class
from qcnn_lightning.evaluation.fidelity import draw_fidelity
from qcnn_lightning.evaluation.figures import draw_all, figure_files
from qcnn_lightning.evaluation.measure import Evaluation, as_json, measure
from qcnn_lightning.evaluation.state_model import StateModel, check_layout, run_around, state_of
from qcnn_lightning.figure_style import checked_formats
from qcnn_lightning.files import inside, replace_atomically
from qcnn_lightning.runs import LAST
from qcnn_lightning.runs.checkpoint import StoredCheckpoint, read_checkpoint
from qcnn_lightning.runs.find import find_runs
from qcnn_lightning.runs.rebuild import cost_of, named_part, network_of
from qcnn_lightning.runs.run import STATES, Run
from qcnn_lightning.runs.settings import PATHS_IN_A_CONFIG, without_paths
from qcnn_lightning.states import StoredState
from qcnn_lightning.states.layout import ImageLayout

log = logging.getLogger(__name__)

SPLITS = ("test", "val", "train")
NUMBERS = "evaluation.json"
STATE = "state.safetensors"
GIVEN_BY = {"run": "run=DIR", "runs": "runs=[DIR,DIR]", "checkpoint": "checkpoint=FILE", "state": "state=FILE"}
"""What names the network, in configurations that have it."""


def evaluate(config: DictConfig) -> tuple[Evaluation, Path]:
    """Measure the network of a run or a checkpoint, or the state in a file; write numbers, state and figures.

    Args:
        config: composed from `conf/evaluate.yaml`.

    Returns:
        The evaluation, and its folder.

    Raises:
        InputError: a run or checkpoint that cannot be read, a setting that cannot be used, data that cannot be reached
            or do not fit the network, or a folder that cannot be written.
    """
    if config.split not in SPLITS:
        raise InputError(f"split={config.split}: choose one of {', '.join(SPLITS)}")
    mirror = switch(config, "mirror")
    formats = checked_formats(config.figures)
    # States are computed on the CPU.
    device = choose_device(config.device if config.state is None else "cpu")
    checkpoints, folder = find_checkpoints(config)
    checkpoint = checkpoints[0]
    for name in (NUMBERS, STATE, *figure_files(formats)):
        inside(folder, name)
    own = [str(path) for path in config.own]
    file = None if config.state is None else Path(str(config.state))
    networks = [network_of(one, own) for one in checkpoints] if file is None else [StateModel(state_of(file, own))]
    order_of_classes = one_of_each_class(checkpoints)
    network: Any = networks[0]
    cost = cost_of(checkpoint, own)
    averages = order_of_classes is None and (mirror or len(networks) > 1)
    if mirror and (file is not None or not averages):
        raise InputError(f"mirror={mirror} averages scores: give classifiers, by run, runs or checkpoint")
    if averages and getattr(cost, "of_log_joint", False):
        raise InputError(f"{checkpoint.path}: {type(network).__name__} is a density, whose scores cannot be averaged")
    if len(networks) > 1:
        check_same_images(checkpoints, config.split, of_classes=order_of_classes is not None)
        network = Ensemble(networks) if order_of_classes is None else network
    epoch = checkpoint.content.get("epoch")
    settings = without_paths(checkpoint.config)
    if order_of_classes is not None:
        settings = settings | {"data": settings["data"] | {"classes": None}}
    images = checkpoint.content.get(STORED_AS, {})
    order = images.get("pixel_order")
    datamodule = rebuild_data(settings, config.data, checkpoint.path, own, order, network.num_sites)
    if images.get("content", datamodule.state_dict()["content"]) != datamodule.state_dict()["content"]:
        log.warning("the network was trained with other images")
    if mirror:
        levels = mirror_levels(datamodule.pixel_order, *datamodule.image_shape)
        network = Ensemble([*networks, *(MirrorImage(one, levels) for one in networks)])
        settings = settings | {"model": settings["model"] | {"mirror": True}}
    if order_of_classes is not None:
        network = class_model([networks[place] for place in order_of_classes], datamodule)
    check_fit(network, datamodule, config.split)
    if file is not None:
        check_layout(network.state(), datamodule, file)
        epoch, settings = None, settings | {"model": {"state": str(file)}}
    measured = [one.path for one in checkpoints] if file is None else [file]
    log.info("evaluating %s on %s", ", ".join(map(str, measured)), device)
    if len(checkpoints) > 1:
        settings = settings | {"model": settings["model"] | {"ensemble": [str(one.path) for one in checkpoints]}}
    evaluation = measure(network.to(device), cost, datamodule, config.split, measured[0], epoch, settings)

    make_folder(folder)
    replace_atomically(folder / NUMBERS, as_json(evaluation.as_plain_data()))
    if isinstance(evaluation.state, StoredState):
        layout = ImageLayout.of(datamodule.pixel_order, datamodule.image_shape)
        evaluation.state.described(datamodule.class_names, layout).save(folder / STATE)
    if formats:
        draw_all(evaluation, folder, formats)
        load: Any = getattr(type(evaluation.state), "load_epochs", None)
        if load and file is None and config.run is not None and Path(str(config.run), STATES).is_file():
            draw_fidelity(load(inside(Path(str(config.run)), STATES)), folder, formats)
    return evaluation, folder


def find_checkpoints(config: DictConfig) -> tuple[list[StoredCheckpoint], Path]:
    """Return the checkpoint, or those of an ensemble, and the folder for the results.

    With `state`, the checkpoint is that of the run whose images are used.

    Raises:
        InputError: not one of `run`, `runs` and `checkpoint` is given, or they do not exist; or the folder for the
            results is a link out of the run folder.
    """
    file = None if config.get("state") is None else Path(str(config.state))
    if file is not None and config.runs:
        raise InputError(f"state={file} is one state: give run=DIR or checkpoint=FILE with it, not runs")
    if file is not None and config.run is None and config.checkpoint is None:
        config = config.copy()
        config.run = str(run_around(file))
    given = [name for name in ("run", "runs", "checkpoint") if config.get(name) not in (None, [])]
    if len(given) != 1:
        *others, last = [said for name, said in GIVEN_BY.items() if name in config]
        raise InputError(f"give one of {', '.join(others)} and {last}; given: {', '.join(given) or 'none'}")
    if config.run is not None:
        checkpoints, folder = [last_checkpoint(Path(str(config.run)))], Path(str(config.run), "evaluation")
    elif config.checkpoint is None:
        all_below = isinstance(config.runs, str)
        folders = [run.folder for run in find_runs(config.runs)] if all_below else [Path(str(r)) for r in config.runs]
        if len({run.resolve() for run in folders}) < max(2, len(folders)):
            given_runs = config.runs if all_below else list(config.runs)
            raise InputError(f"runs={given_runs}: an ensemble needs at least two different runs")
        checkpoints, folder = [last_checkpoint(run) for run in folders], folders[0].parent / "ensemble-evaluation"
    else:
        path = Path(str(config.checkpoint))
        if path.is_dir():
            raise InputError(f"checkpoint={path} is a folder; for a run folder give run={path}")
        if not path.is_file():
            raise InputError(f"checkpoint={path}: no such file")
        checkpoints, folder = [read_checkpoint(path)], path.with_name(f"{path.stem}-evaluation")
    if file is not None:
        folder = file.with_name(f"{file.stem}-evaluation")
    # Each split, and the mirrored image, has its own results.
    own = folder.name if config.get("split", "test") == "test" else f"{folder.name}-{config.split}"
    own = f"{own}-mirror" if config.get("mirror") else own
    return checkpoints, inside(folder.parent, own) if config.out is None else Path(str(config.out))


def last_checkpoint(folder: Path) -> StoredCheckpoint:
    """Read the last checkpoint of a run.

    Raises:
        InputError: there is no such folder, no checkpoint in it, or none that can be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a run folder is what training leaves behind")
    run = Run(folder)
    checkpoint = run.checkpoint()
    if checkpoint is None:
        raise InputError(f"{folder / LAST}: no such file; is {folder} a run folder, and its first epoch completed?")
    try:
        if not run.has_the_rows_of(checkpoint):
            log.warning("%s is of another run or epoch than metrics.csv, or one of them was altered", checkpoint.path)
    except InputError as error:
        log.warning("%s", error)
    return checkpoint


def choose_device(name: str) -> torch.device:
    """Return the device of this name; "auto" is the accelerator if there is one, else the CPU.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={name} cannot be used here: {str(error).splitlines()[0]}") from error


def rebuild_data(
    settings: Mapping[str, Any],
    paths: DictConfig,
    path: Path,
    allowed: Collection[str] = (),
    order: Any = None,
    num_sites: int | None = None,
) -> SplitImages:
    """Prepare the data that a run was trained with.

    Paths and code that the run folder names are not used. Paths come from `paths` or from the data set's configuration,
    and nothing is imported but `allowed`.

    Args:
        settings: the run's configuration.
        paths: `data.root`, `data.path` and `data.cache`; null for the data set's.
        path: the checkpoint, for messages.
        allowed: dotted paths of the user's own code that may be run.
        order: the checkpoint's pixel order, or None.
        num_sites: the network's, checked before any data are read; None checks nothing.

    Raises:
        InputError: the configuration does not describe data, they do not fit the network, or cannot be reached.
    """
    own = settings.get("data")
    name = str(own.get("name")) if isinstance(own, dict) else ""
    if not isinstance(own, dict) or not (name in SOURCES or re.fullmatch(r"\w+(\.\w+)+", name)):
        raise InputError(f"the run's configuration does not name its data: data={own}")
    named_part(name, SOURCES, allowed, path)
    if own.get("flatten") not in FLATTENINGS:
        # A text would be taken for the path of a function.
        if not isinstance(order, Tensor):
            raise InputError(
                f"the run's pixel order data.flatten={own.get('flatten')} is not ours, and its checkpoint does not "
                "hold it: refused, nothing was executed"
            )
        own = own | {"flatten": order}
    places = places_of(name, paths)
    try:
        datamodule = SplitImages(**own, **places)
    except TypeError as error:
        raise InputError(f"the run's configuration of its data cannot be used: {error}") from error
    if num_sites is not None and datamodule.num_sites != num_sites:
        raise InputError(
            f"the network was trained for images of {num_sites} sites, the data have {datamodule.num_sites} sites; are "
            "they where they were?"
        )
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def places_of(name: str, given: DictConfig) -> dict[str, Any]:
    """Return the paths of a data set: the given ones, else those of its configuration."""
    paths = {key: given[key] for key in PATHS_IN_A_CONFIG["data"] if given.get(key) is not None}
    if name not in SOURCES:
        return paths
    ours: Any = OmegaConf.create((files("qcnn_lightning.conf") / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    # Interpolations are resolved in our configuration only, never in the run's.
    chosen = OmegaConf.create({"data": OmegaConf.merge(ours, paths)})
    return {key: chosen.data[key] for key in PATHS_IN_A_CONFIG["data"] if key in ours}


def check_fit(network: Any, datamodule: SplitImages, split: str) -> None:
    """Check that the data fit the network.

    Raises:
        InputError: another number of sites or classes, or no such split.
    """
    if split not in datamodule.splits:
        raise InputError(f"split={split}: the run held no images out (data.val_size=0)")
    if (datamodule.num_sites, datamodule.num_classes) != (network.num_sites, network.num_classes):
        raise InputError(
            f"the network takes {network.num_sites} sites and {network.num_classes} classes, the data have "
            f"{datamodule.num_sites} sites and {datamodule.num_classes} classes; are they where they were?"
        )


def make_folder(folder: Path) -> None:
    """Make the folder for the results.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder} for the results: {error.strerror}; give out=DIR") from error
