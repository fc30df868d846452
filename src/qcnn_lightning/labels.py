"""What people read: names of data sets, settings and their values, in figures, tables, the page and W&B.

Files for machines (`metrics.csv`, the report's CSV files) keep the names that are typed.
"""

from collections.abc import Callable, Mapping
from typing import Any

ENTROPY = "entanglement entropy (nats)"
MEAN_ENTROPY = "mean EE (nats)"
DATA_NAMES = {"mnist": "MNIST", "fmnist": "Fashion-MNIST"}
ORDERS = {
    "left_right": "left/right",
    "up_down": "up/down",
    "z_left_right": "left/right, z order",
    "z_up_down": "up/down, z order",
}
"""Pixel orders, by the two halves of the image whose entropy they give."""
LONGEST_CLASS_NAME = 18
"""Characters."""
SETTING_NAMES = {
    "data.name": "data set",
    "data.flatten": "pixel order",
    "data.size": "image size",
    "data.augment.contrast": "contrast",
    "data.augment.erase": "erased squares",
    "data.augment.erase_fraction": "erased images",
    "data.augment.flip": "mirrored",
    "data.augment.rotate": "largest turn",
    "data.augment.shift": "shift",
    "data.augment.shift_fraction": "shifted images",
    "optimizer.lr": "learning rate",
    "trainer.max_epochs": "epochs",
}
"""Of settings whose own name does not say it."""


def _pixels(number: Any) -> str:
    return f"{number} pixel{'' if number == 1 else 's'}"


def _part(value: Any, what: str) -> str:
    return f"{value:.0%} of the images {what}" if isinstance(value, int | float) else f"{value} of the images {what}"


# Settings that read better as a phrase than as "name = value".
PHRASES: Mapping[str, Callable[[Any], str]] = {
    "data.flatten": lambda order: ORDERS.get(order, str(order)),
    "data.size": lambda size: f"{size} × {size} pixels" if size is not None else "images of their own size",
    "data.augment.contrast": lambda part: f"contrast ± {part:.0%}" if part else "contrast unchanged",
    "data.augment.elastic": lambda pixels: f"bent by up to {_pixels(pixels)}" if pixels else "not bent",
    "data.augment.erase": lambda side: f"squares of {_pixels(side)} erased" if side else "nothing erased",
    "data.augment.erase_fraction": lambda part: _part(part, "erased"),
    "data.augment.flip": lambda flip: "mirrored" if flip else "not mirrored",
    "data.augment.rotate": lambda degrees: f"turned by up to {degrees}°" if degrees else "not turned",
    "data.augment.shift": lambda shift: f"shifted by {_pixels(shift)}" if shift else "not shifted",
    "data.augment.shift_fraction": lambda part: _part(part, "shifted"),
    "data.augment.turn_fraction": lambda part: _part(part, "turned"),
    "data.augment.zoom": lambda part: f"size ± {part:.0%}" if part else "size unchanged",
    "model.basis": lambda basis: f"{str(basis).capitalize()} basis" if str(basis).isalpha() else f"basis = {basis}",
    "model.sharing": lambda sharing: f"{'no' if sharing == 'none' else sharing} sharing",
    "model.start": lambda start: {"product_state": "product-state start", "default": "PyTorch's start"}.get(
        start, f"start = {start}"
    ),
    "seed": lambda seed: f"seed {seed}",
    "trainer.max_epochs": lambda epochs: f"{epochs} epochs",
}


def data_name(data: str) -> str:
    """Return a data set's name as people write it."""
    return DATA_NAMES.get(data, data)


def setting_name(key: str) -> str:
    """Return the short name of a setting: "d" for "model.d", "optimizer" for "optimizer._target_"."""
    return SETTING_NAMES.get(key) or key.removesuffix("._target_").split(".")[-1].replace("_", " ")


def value_name(key: str, value: Any) -> str:
    """Return a setting's value, which stands beside the setting's name: "Fashion-MNIST", "left/right", "18"."""
    if value is None:
        return "none"
    if key == "data.name":
        return data_name(str(value))
    if key == "data.flatten":
        return ORDERS.get(value, str(value))
    if key.endswith("._target_"):
        return str(value).rpartition(".")[2]
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def setting(key: str, value: Any) -> str:
    """Return a setting and its value, to stand by themselves: "d = 18", "shifted by 1 pixel", "left/right"."""
    if key == "data.name":
        return data_name(str(value))
    if key in PHRASES and value is not None:
        try:
            return PHRASES[key](value)
        # A run folder may hold anything.
        except (TypeError, ValueError):
            pass
    return f"{setting_name(key)} = {value_name(key, value)}"


def class_label(name: str) -> str:
    """Return a class's name, short enough to stand beside a row or over a panel."""
    return shortened(name, LONGEST_CLASS_NAME)


def caption(*parts: str) -> str:
    """Name a run or a group of them: join the parts that are not empty."""
    return ", ".join(part for part in parts if part)


def shortened(name: str, longest: int) -> str:
    """Return a name of at most `longest` characters: beginning and end, which tell names apart, and "…" between."""
    if len(name) <= longest:
        return name
    end = longest // 3
    return f"{name[: longest - 1 - end].rstrip()}…{name[-end:].lstrip()}"
