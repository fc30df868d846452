"""Sources of labelled images. A module that holds one lists the data sets it makes in `SOURCES`."""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from qcnn_lightning.data.images import LabelledImages
from qcnn_lightning.data.sources.source import Source
from qcnn_lightning.errors import InputError
from qcnn_lightning.own_parts import own_part

__all__ = ["SOURCES", "LabelledImages", "Source", "make_source"]

SOURCES: dict[str, Callable[..., Source]] = {}
"""`data.name` -> function of the source's settings that returns the source."""

for _module in iter_modules(__path__):
    SOURCES |= getattr(import_module(f"{__name__}.{_module.name}"), "SOURCES", {})


def make_source(name: str, settings: Mapping[str, Any]) -> Source:
    """Return the source of a data set.

    Args:
        name: one of `SOURCES`, or the dotted path of the user's own `Source`.
        settings: the source's settings.

    Raises:
        InputError: no such data set, or it does not take these settings.
    """
    if name not in SOURCES and "." not in name:
        raise InputError(
            f"data.name={name} is not a data set; choose {', '.join(SOURCES)}, or the dotted path of your own source, "
            "like mine.MySource."
        )
    make = SOURCES[name] if name in SOURCES else own_part(name, "data.name")
    try:
        inspect.signature(make).bind(**settings)
    except TypeError as error:
        raise InputError(f"data={name} cannot be used with these settings: {error}.") from error
    source = make(**settings)
    if not isinstance(source, Source):
        raise InputError(
            f"data.name={name} is a {type(source).__name__}: expected a qcnn_lightning.data.sources.Source."
        )
    return source
