"""Errors whose message tells the user what to do; command lines print it without a traceback."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from beartype import BeartypeConf, beartype
from beartype.door import die_if_unbearable


class InputError(ValueError):
    """A setting, a file or a folder that cannot be used.

    The message gives the value, where it came from (config key or file), and what would be right. Exit code 2.
    """


class RefusedRunError(InputError):
    """The folder holds another run, or one that another process trains, which is left as it is."""


class NonFiniteCostError(ArithmeticError):
    """The cost became infinite or NaN in training; the last checkpoint is from the epoch before. Exit code 1."""


def message_of(error: BaseException) -> str:
    """Return what an error says, and its kind unless its message alone tells the user what to do."""
    # Others say little, or nothing: KeyError, MemoryError.
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


CHECKS = BeartypeConf(violation_type=InputError, is_pep484_tower=True, is_color=False)
Init = TypeVar("Init", bound=Callable[..., None])


def checked_settings(init: Init) -> Init:
    """Let a constructor raise an `InputError` that names a setting of the wrong type, and the right one.

    beartype's decorator does so, but not under `python -O`; its function still does.
    """
    if __debug__:
        return beartype(conf=CHECKS)(init)
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked(*arguments: Any, **named: Any) -> None:
        for name, value in signature.bind(*arguments, **named).arguments.items():
            if (hint := signature.parameters[name].annotation) is not signature.empty:
                die_if_unbearable(value, hint, conf=CHECKS, exception_prefix=f"parameter {name}: ")
        init(*arguments, **named)

    return checked  # type: ignore[return-value]
