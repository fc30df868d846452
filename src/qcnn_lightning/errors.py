"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """A setting, a file or a folder that cannot be used.

    The message alone must tell the user everything: the value, where it came from (config key or file), and what
    would be right. Command lines print it without a traceback and exit with code 2.
    """
