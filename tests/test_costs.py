import math

import jaxtyping
import mpmath
import pytest
import torch
from torch.nn import functional

from qcnn_lightning.costs import CrossEntropy, SquaredDistance, mean_and_gradient
from qcnn_lightning.errors import InputError


def scores_and_labels(batch=20, classes=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(batch, classes, generator=generator, dtype=dtype)
    return scores, torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize(
    "cost", [SquaredDistance(), CrossEntropy(), CrossEntropy(0.1)], ids=["squared", "cross_entropy", "mixed"]
)
def test_gradients_are_those_of_finite_differences(cost):
    scores, labels = scores_and_labels()
    mean, gradient = mean_and_gradient(cost, scores, labels)
    assert mean.item() == pytest.approx(cost(scores, labels).mean().item(), rel=1e-14)
    step = 1e-6
    for image, label in ((0, 0), (3, 5), (19, 6)):
        nudge = torch.zeros_like(scores)
        nudge[image, label] = step
        difference = (cost(scores + nudge, labels).mean() - cost(scores - nudge, labels).mean()) / (2 * step)
        assert gradient[image, label].item() == pytest.approx(difference.item(), rel=1e-6, abs=1e-9)


def test_scores_may_lie_in_memory_in_any_order():
    scores, labels = scores_and_labels()
    mean, gradient = mean_and_gradient(SquaredDistance(), scores, labels)
    for other in (scores.mT.contiguous().mT, torch.stack((scores, scores), dim=-1)[..., 0]):
        assert not other.is_contiguous()
        of_other, gradient_of_other = mean_and_gradient(SquaredDistance(), other, labels)
        assert of_other.item() == pytest.approx(mean.item(), rel=1e-14)
        assert torch.equal(gradient_of_other, gradient)


def test_squared_distance_is_that_of_equation_48():
    scores, labels = scores_and_labels()
    expected = [
        sum((alpha - (y == label)) ** 2 for y, alpha in enumerate(row))
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(SquaredDistance()(scores, labels), torch.tensor(expected, dtype=torch.float64))


def test_cross_entropy_is_minus_log_of_equation_34_whatever_the_size_of_the_scores():
    scores = torch.tensor([[1e-30, -2e-30, 1e-31], [1e30, -1e25, 3e30], [1e-38, 1e38, 1.0]], dtype=torch.float32)
    labels = torch.tensor([1, 1, 2])
    mpmath.mp.dps = 50
    for cost, row, label in zip(CrossEntropy()(scores, labels), scores, labels, strict=True):
        squares = [mpmath.mpf(alpha) ** 2 for alpha in row.tolist()]
        assert cost.item() == pytest.approx(float(-mpmath.log(squares[label] / sum(squares))), rel=1e-5)
    _, gradient = mean_and_gradient(CrossEntropy(), scores, labels)
    assert gradient.isfinite().all()


def test_cross_entropy_does_not_depend_on_scale_or_signs_and_a_vanishing_score_of_its_own_costs_infinity():
    scores, labels = scores_and_labels()
    cost = CrossEntropy()(scores, labels)
    torch.testing.assert_close(CrossEntropy()(-17 * scores, labels), cost)
    assert CrossEntropy()(torch.tensor([[0.0, 1.0]]), torch.tensor([0])).item() == math.inf


def test_cross_entropy_with_a_uniform_part_is_bounded_and_so_is_its_gradient():
    scores, labels = scores_and_labels()
    p = scores.square() / scores.square().sum(-1, keepdim=True)
    expected = -(0.9 * p + 0.1 / 7)[torch.arange(20), labels].log()
    torch.testing.assert_close(CrossEntropy(0.1)(scores, labels), expected)
    scores[torch.arange(20), labels] = 0
    scores[:, 3] = 0
    mean, gradient = mean_and_gradient(CrossEntropy(0.1), scores, labels)
    assert mean.item() == pytest.approx(math.log(70))
    assert gradient.isfinite().all()
    scores[torch.arange(20), labels] = 1e-12
    assert mean_and_gradient(CrossEntropy(0.1), scores, labels)[1].abs().max() < 1e-6
    assert mean_and_gradient(CrossEntropy(), scores, labels)[1].abs().max() > 1e9


@pytest.mark.parametrize("uniform", [-0.1, 1, 1.5])
def test_a_uniform_part_out_of_range_is_told(uniform):
    with pytest.raises(InputError, match=rf"cost\.uniform={uniform}: must be a number from 0"):
        CrossEntropy(uniform)


def test_what_does_not_fit_the_images_is_refused():
    scores, labels = scores_and_labels()
    with pytest.raises(InputError, match=r"labels have shape \(3,\): expected \(20,\), one per image"):
        mean_and_gradient(SquaredDistance(), scores, labels[:3])
    with pytest.raises(InputError, match=r"labels have shape \(1,\)"):
        mean_and_gradient(SquaredDistance(), scores, labels[:1])

    class MeanCost:
        def __call__(self, scores, labels):
            return functional.cross_entropy(scores, labels)

    with pytest.raises(InputError, match=r"the cost MeanCost returned shape \(\): expected \(20,\)"):
        mean_and_gradient(MeanCost(), scores, labels)


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
