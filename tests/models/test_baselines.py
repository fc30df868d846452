"""Ordinary networks: what they cannot take is told."""

import pytest
import torch

from qcnn_lightning.errors import InputError
from qcnn_lightning.models.baselines import CNN


@pytest.mark.parametrize("shape", [(1, 32), (32, 1), (3, 10), (4, 8), (8, 4)], ids=str)
def test_a_convolutional_network_takes_images_that_its_poolings_leave_something_of(shape):
    network = CNN(32, 3, width=1)
    order = torch.arange(32)
    if min(shape) < 4:
        with pytest.raises(InputError, match=rf"images of {shape[0]} x {shape[1]} pixels: model=cnn needs 4 x 4"):
            network.mark_order(order, shape)
    else:
        network.mark_order(order, shape)
        assert network(torch.zeros(2, 32)).shape == (2, 3)
