"""A state in a file as a model, to be measured and sampled without the network that it came from."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qcnn_lightning.basis import BASES
from qcnn_lightning.data.split_images import SplitImages
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.model import Model
from qcnn_lightning.runs import LAST
from qcnn_lightning.runs.rebuild import named_part
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.load import load_state, metadata_of


class StateModel(Model):
    """A model whose scores are the amplitudes of a state: alpha_y(x) = <x|Psi_y> (eq. 31).

    Those of a state with likelihoods are alpha_y(x) / sqrt(sum_y' |alpha_y'(x)|^2), as its model has them.

    Args:
        state: of any class.
    """

    def __init__(self, state: Any):
        super().__init__()
        self._state = state
        self.num_sites, self.num_classes = state.num_sites, state.num_classes
        self.normalises_scores = hasattr(state, "log_joint")
        tensors = [*state.site_tensors, state.class_tensor if hasattr(state, "class_tensor") else state.top]
        real = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
        self.tensors = nn.ParameterList(nn.Parameter(tensor, requires_grad=False) for tensor in real)
        if self.normalises_scores:
            self.log_joint = state.log_joint

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the scores, float64; the sizes of complex amplitudes."""
        logarithm, sign = self._state.log_amplitude(x.cpu())
        if self.normalises_scores:
            logarithm = logarithm - (2 * logarithm).logsumexp(-1, keepdim=True) / 2
        return logarithm.exp() if sign.is_complex() else sign * logarithm.exp()

    def state(self, statistics: None = None) -> Any:
        """Return the state."""
        return self._state


def state_of(file: Path, own: Collection[str]) -> Any:
    """Return the state in a file.

    Args:
        file: as a state's `save` writes it.
        own: dotted paths of the user's own code that may be run: its basis.

    Raises:
        InputError: as `load_state`, or its basis is neither ours nor in `own`.
    """
    named_part(metadata_of(file).get("basis", "fourier"), BASES, own, file)
    return load_state(file)


def run_around(file: Path) -> Path:
    """Return the run folder that a state's file lies in, directly or in a folder such as `evaluation`.

    Raises:
        InputError: it lies in none.
    """
    for folder in (file.absolute().parent, file.absolute().parent.parent):
        if (folder / LAST).is_file():
            return folder
    raise InputError(f"state={file} lies in no run folder: give run=DIR or checkpoint=FILE, whose images are used")


def check_layout(state: Any, datamodule: SplitImages, file: Path) -> None:
    """Check that the images lie on the chain as the state has them.

    Raises:
        InputError: the state's pixels stand at other sites, or white lies elsewhere.
    """
    ours = ImageLayout.of(datamodule.pixel_order, datamodule.image_shape)
    if state.layout not in (None, ours):
        raise InputError(f"state={file} is of images of another size or pixel order than the run's")
    if state.white != datamodule.white:
        raise InputError(f"state={file} is of data.white={state.white}, the run of {datamodule.white}")
