"""The shapes that signatures state are checked while the tests run, also by pytest's workers."""

import jaxtyping
import pytest
import torch

from qcnn_lightning.costs import SquaredDistance


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (torch.zeros(3, 10), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(30), torch.zeros(30, dtype=torch.int64)),
        (torch.zeros(3, 10), torch.zeros(3)),
    ],
)
def test_a_tensor_of_another_shape_or_type_is_refused(scores, labels):
    with pytest.raises(jaxtyping.TypeCheckError):
        SquaredDistance()(scores, labels)
