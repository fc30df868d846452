"""What a trained network takes images of any folder for: p(y|x) of every image and class (eq. 34)."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig

from qcnn_lightning.data.flattening import FLATTENINGS, lay_on_chain, pixel_order
from qcnn_lightning.data.images import resized
from qcnn_lightning.data.levels import rounded_to_levels
from qcnn_lightning.data.sources.folder import image_files, read_image
from qcnn_lightning.data.split_images import STORED_AS
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.evaluate import last_checkpoint
from qcnn_lightning.evaluation.measure import probabilities_of
from qcnn_lightning.files import as_csv, replace_atomically
from qcnn_lightning.runs.checkpoint import StoredCheckpoint
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.settings import settings_of

BATCH_SIZE = 1000


def predict(config: DictConfig) -> tuple[pd.DataFrame, Path]:
    """Classify the images below a folder; write a row per image.

    Args:
        config: composed from `conf/predict.yaml`.

    Returns:
        The table of `predictions`, and its file.

    Raises:
        InputError: a run that cannot be read, no images, or a file that cannot be written.
    """
    if config.run is None or config.images is None:
        raise InputError("give run=DIR, a trained run, and images=DIR, a folder of images")
    images = Path(str(config.images)).expanduser()
    images = images if images.name else images.absolute()
    out = images.parent / f"{images.name}-predictions.csv" if config.out is None else Path(str(config.out))
    table = predictions(last_checkpoint(Path(str(config.run))), images, [str(path) for path in config.own])
    replace_atomically(out, as_csv(table))
    return table, out


@torch.no_grad()
def predictions(checkpoint: StoredCheckpoint, images: Path, own: Collection[str] = ()) -> pd.DataFrame:
    """Classify the images below a folder: grey, resized, rounded and in the pixel order as the network was trained.

    Args:
        checkpoint: of a run.
        images: the folder; hidden files are left out.
        own: dotted paths of the user's own code that may be run.

    Returns:
        A row per image in the order of their names: `image`, its path below the folder; `class`, the most probable one;
        `probability`; and `p/<class>` = p(y|x) of every class (eq. 34), or |alpha_y|^2 / sum |alpha|^2 of a model
        without a state.

    Raises:
        InputError: there is no image, or one cannot be read; or the network was not trained on resized images.
    """
    network: Any = network_of(checkpoint, own)
    if not images.is_dir():
        raise InputError(f"images={images}: no such folder")
    files = list(image_files(images, Counter()))
    if not files:
        raise InputError(f"images={images}: no image is there")
    size = size_of(checkpoint)
    grey = with_levels_of(checkpoint, resized(map(read_image, files), (size, size)))
    x = lay_on_chain(grey, order_of(checkpoint, size))
    state = network.state()
    if state is not None:
        probabilities = torch.cat([state.conditional_probability(batch) for batch in x.split(BATCH_SIZE)])
    else:
        probabilities = probabilities_of(torch.cat([network(batch) for batch in x.split(BATCH_SIZE)]))
    names = class_names(checkpoint, probabilities.shape[1])
    largest = probabilities.max(-1)
    table = {
        "image": [str(file.relative_to(images)) for file in files],
        "class": [names[label] for label in largest.indices.tolist()],
        "probability": largest.values.tolist(),
    }
    return pd.DataFrame(
        table | {f"p/{name}": column for name, column in zip(names, probabilities.T.tolist(), strict=True)}
    )


def size_of(checkpoint: StoredCheckpoint) -> int:
    """Return the height and width, in pixels, of the images that a run was trained with.

    Raises:
        InputError: the run does not say.
    """
    size = checkpoint.config.get("data", {}).get("size")
    if not isinstance(size, int) or size < 1:
        raise InputError(f"{checkpoint.path}: data.size={size}: the run's images were not resized, so no others can be")
    return size


def with_levels_of(checkpoint: StoredCheckpoint, images: torch.Tensor) -> torch.Tensor:
    """Return images rounded to the grey levels of a run, the way its test images were."""
    settings = settings_of(checkpoint.config)
    levels, rounding = settings["data.levels"], settings["data.rounding"]
    return images if levels is None else rounded_to_levels(images, levels, rounding, seed=0)


def order_of(checkpoint: StoredCheckpoint, size: int) -> torch.Tensor:
    """Return the pixel order that a run was trained with.

    Raises:
        InputError: the run does not say.
    """
    kept = checkpoint.content.get(STORED_AS, {}).get("pixel_order")
    flatten = checkpoint.config.get("data", {}).get("flatten")
    if kept is None and flatten not in FLATTENINGS:
        raise InputError(f"{checkpoint.path}: data.flatten={flatten} is not ours, and the checkpoint does not hold it")
    order: torch.Tensor = pixel_order(str(flatten), size, size) if kept is None else kept
    return order


def class_names(checkpoint: StoredCheckpoint, number: int) -> list[str]:
    """Return the names of the classes; their numbers where the run does not have as many."""
    names = checkpoint.record["facts"].get("class_names") or []
    return [str(name) for name in names] if len(names) == number else [str(label) for label in range(number)]
