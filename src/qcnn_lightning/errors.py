"""Errors whose message alone tells the user what to do; command lines print them without a traceback."""

from beartype import BeartypeConf, beartype


class InputError(ValueError):
    """A setting, a file or a folder that cannot be used.

    The message gives the value, where it came from (config key or file), and what would be right. Command lines exit
    with code 2.
    """


class RefusedRunError(InputError):
    """The folder holds another run, or one that another process trains, which is left as it is."""


class NonFiniteCostError(ArithmeticError):
    """The cost became infinite or NaN during training; the last checkpoint is of the epoch before.

    Command lines exit with code 1.
    """


# For constructors whose arguments are settings: a value of the wrong type is an InputError that names both.
checked_settings = beartype(conf=BeartypeConf(violation_type=InputError, is_pep484_tower=True, is_color=False))
