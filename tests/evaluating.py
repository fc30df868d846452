"""Evaluations as the command line makes them, in this process."""

from hydra import compose, initialize_config_module

from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.evaluation.evaluate import evaluate


def composed(name, *overrides):
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        return compose(name, list(overrides))


def evaluation_of(*overrides, figures="[]"):
    """Evaluate as the command line does; paths are quoted as it quotes them."""
    quoted = [f"{key}='{value}'" for key, _, value in (override.partition("=") for override in overrides)]
    return evaluate(composed("evaluate", f"figures={figures}", *quoted))
