"""Models: images in, scores of the classes out, and the quantum states behind them, where there are any."""

from qcnn_lightning.models.model import Model as Model
from qcnn_lightning.models.qcnn import QCNN as QCNN

MODELS: dict[str, type[Model]] = {f"qcnn_lightning.{model.__name__}": model for model in (QCNN,)}
"""The models that a configuration may name."""
