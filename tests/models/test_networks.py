"""Networks with a leading axis are the same networks, one at a time."""

import copy

import pytest
import torch

from qcnn_lightning import QCNN
from qcnn_lightning.costs import CrossEntropy, SquaredDistance
from qcnn_lightning.kernels.kernel import AutogradKernel, backpropagate
from qcnn_lightning.models.networks import Networks, parameters_of

SITES, CLASSES, IMAGES = 16, 3, 7


def networks(count: int, dtype: torch.dtype = torch.float64, **settings) -> list[QCNN]:
    torch.manual_seed(0)
    settings = {"d": 4, "kernel": "plain"} | settings
    return [QCNN(SITES, CLASSES, **settings).to(dtype) for _ in range(count)]


def batches(count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, IMAGES, SITES), dtype=torch.uint8, generator=generator)
    return list(images), list(torch.randint(0, CLASSES, (count, IMAGES), generator=generator))


@pytest.mark.parametrize("kernel", ["plain", "fused"])
@pytest.mark.parametrize("sharing", ["full", "sibling"])
@pytest.mark.parametrize("cost", [SquaredDistance(), CrossEntropy(), CrossEntropy(0.1)])
def test_costs_gradients_and_running_averages_are_those_of_each_network_alone(kernel, sharing, cost):
    alone = networks(3, sharing=sharing, kernel=kernel, start="default")
    together = Networks(copy.deepcopy(alone))
    images, labels = batches(3)
    costs = together.backpropagate(cost, images, labels)
    for number, network in enumerate(alone):
        own = network.fast_kernel(images[number]) or AutogradKernel(network)
        expected = backpropagate(own, cost, images[number], labels[number])
        assert costs[number].item() == pytest.approx(expected, rel=1e-12)
        gradient = torch.cat([parameter.grad.flatten() for parameter in parameters_of(network)])
        torch.testing.assert_close(together.gradients[number], gradient, rtol=1e-10, atol=1e-12)
        for one, other in zip(network.buffers(), together.networks[number].buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("statistics", ["population", "running"])
def test_evaluation_is_that_of_each_network_alone(statistics):
    alone = networks(3)
    images, labels = batches(3)
    together = Networks(copy.deepcopy(alone))
    together.backpropagate(SquaredDistance(), images, labels)
    for network, own in zip(alone, images, strict=True):
        network.train()(own)
        network.eval()
    if statistics == "population":
        together.fix_population_statistics(images)
        for network, own in zip(alone, images, strict=True):
            network.fix_population_statistics(own)
    expected = torch.stack([network(own) for network, own in zip(alone, images, strict=True)])
    torch.testing.assert_close(together.evaluate(images), expected, rtol=1e-11, atol=1e-12)
    for network, own, scores in zip(together.networks, images, expected, strict=True):
        torch.testing.assert_close(network.eval()(own), scores, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kernel", ["plain", "fused"])
def test_a_networks_digits_do_not_depend_on_which_others_are_with_it(kernel):
    images, labels = batches(4)
    found = []
    # A product of one pair of matrices rounds otherwise than a batch of them.
    for chosen in ([0, 1, 2, 3], [0] if kernel == "fused" else [0, 2], [3, 0], [1, 2, 0]):
        every = networks(4, d=6, kernel=kernel)
        together = Networks([every[k] for k in chosen])
        costs = together.backpropagate(SquaredDistance(), [images[k] for k in chosen], [labels[k] for k in chosen])
        place = chosen.index(0)
        found.append((costs[place], together.gradients[place].clone()))
    for cost, gradient in found[1:]:
        assert torch.equal(cost, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_a_networks_own_parameters_are_what_is_trained():
    every = networks(2)
    before = every[1].levels[0].weight.clone()
    together = Networks(every)
    together.weights[1] += 1
    assert torch.equal(every[1].levels[0].weight, before + 1)
    together.attach_gradients()
    together.gradients[1] = 2
    assert all((parameter.grad == 2).all() for parameter in every[1].parameters())
    assert torch.equal(together.batched.levels[0].weight[1], before + 1)
