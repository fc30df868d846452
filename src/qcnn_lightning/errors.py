"""Errors whose message alone tells the user what to do; command lines print them without a traceback."""


class InputError(ValueError):
    """A setting, a file or a folder that cannot be used.

    The message gives the value, where it came from (config key or file), and what would be right. Command lines exit
    with code 2.
    """


class NonFiniteCostError(ArithmeticError):
    """The cost became infinite or NaN during training; the last checkpoint is of the epoch before.

    Command lines exit with code 1.
    """
