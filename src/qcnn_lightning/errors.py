"""Errors whose message tells the user what to do; command lines print it without a traceback."""

from beartype import BeartypeConf, beartype


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


# For constructors that take settings: a value of the wrong type raises an InputError that names both.
checked_settings = beartype(conf=BeartypeConf(violation_type=InputError, is_pep484_tower=True, is_color=False))
