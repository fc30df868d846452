"""Scores of ensembles whose amplitudes single precision cannot hold."""

import pytest
import torch

from qcnn_lightning import MPS, QCNN
from qcnn_lightning.costs import CrossEntropy, SquaredDistance, scores_for
from qcnn_lightning.evaluation.ensemble import Ensemble, MirrorImage
from qcnn_lightning.evaluation.measure import disagreement

SITES = 64


def chain(seed, factor, **settings):
    """Return a matrix product state whose amplitudes are about factor^64."""
    torch.manual_seed(seed)
    model = MPS(SITES, 4, bond=3, **settings)
    real = (0,) * (model.sites.ndim - 5)
    with torch.no_grad():
        model.sites.mul_(factor)
        for bond in range(3):
            model.sites[(..., 0, bond, bond, *real)] += (factor - 1) / model.size
    return model.eval()


@pytest.mark.parametrize("factors", [(0.1, 0.1), (10.0, 10.0), (0.1, 0.12)], ids=str)
def test_cross_entropy_of_an_ensemble_neither_over_nor_underflows(factors):
    networks = [chain(seed, factor) for seed, factor in enumerate(factors)]
    ensemble = Ensemble(networks)
    x = torch.randint(256, (10, SITES), dtype=torch.uint8)
    assert not (ensemble(x).isfinite() & (ensemble(x) != 0)).any()
    labels, cost = torch.arange(10) % 4, CrossEntropy()
    expected = -ensemble.state().conditional_probability(x).log().gather(1, labels.unsqueeze(1)).squeeze(1)
    found = cost(scores_for(cost, ensemble)(x), labels).double()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert disagreement(ensemble, ensemble.state(), x) < 1e-4


def test_the_mirror_image_of_a_complex_chain_neither_over_nor_underflows():
    network = chain(0, 0.1, dtype="complex")
    ensemble = Ensemble([network, MirrorImage(network, [0, 1, 2])])
    x = torch.randint(256, (10, SITES), dtype=torch.uint8)
    scores = scores_for(CrossEntropy(), ensemble)(x).double()
    mirrored = x.unflatten(1, (-1, 8)).flip(-1).flatten(1)
    (here, _), (there, _) = (network.state().log_amplitude(images) for images in (x, mirrored))
    expected = torch.logaddexp(here, there).log_softmax(-1)
    torch.testing.assert_close(scores.log().log_softmax(-1), expected, atol=1e-3, rtol=1e-3)


def test_other_networks_and_costs_take_the_mean_scores():
    ensemble = Ensemble([QCNN(8, 3, d=2) for _ in range(2)])
    assert scores_for(CrossEntropy(), ensemble) is ensemble
    chains = Ensemble([chain(0, 1.0), chain(1, 1.0)])
    assert scores_for(SquaredDistance(), chains) is chains
