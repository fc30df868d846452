"""Models: images in, scores of the classes out; some also have quantum states."""

from qcnn_lightning.models.baselines import CNN as CNN
from qcnn_lightning.models.baselines import Linear as Linear
from qcnn_lightning.models.convac import ConvAC as ConvAC
from qcnn_lightning.models.density import Density as Density
from qcnn_lightning.models.model import Model as Model
from qcnn_lightning.models.mps import MPS as MPS
from qcnn_lightning.models.qcnn import QCNN as QCNN
from qcnn_lightning.models.ttn import TTN as TTN

MODELS: dict[str, type[Model]] = {
    f"qcnn_lightning.{model.__name__}": model for model in (QCNN, ConvAC, TTN, Density, MPS, Linear, CNN)
}
"""Our models, by the names that configurations use."""
