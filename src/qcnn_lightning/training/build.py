"""From parts of the configuration to objects, with one message if a part cannot be built."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from qcnn_lightning.errors import InputError


def build(config: DictConfig | None, key: str, **arguments: Any) -> Any:
    """Build the object that a part of the configuration describes: ours, a library's or the user's own.

    Args:
        config: `_target_` and its settings; None builds nothing.
        key: config key of this part, for messages.
        arguments: further arguments.

    Raises:
        InputError: there is no such class or function, or it does not take these settings.
    """
    if config is None:
        return None
    target = config.get("_target_")
    try:
        return instantiate(config, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from error
        if "locating target" in str(error):
            raise InputError(
                f"{key}._target_={target}: there is no such class or function ({innermost(error)}); your own module "
                "must lie in the current folder or be installed"
            ) from error
        # Errors inside its code keep their traceback, for its author.
        if isinstance(cause, TypeError) and (cause.__traceback__ is None or cause.__traceback__.tb_next is None):
            settings = ", ".join(f"{key}.{name}" for name in map(str, config) if not name.startswith("_"))
            raise InputError(f"{key}._target_={target} does not take its settings ({settings}): {cause}") from error
        raise


def innermost(error: BaseException) -> BaseException:
    """Return the first error of a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
