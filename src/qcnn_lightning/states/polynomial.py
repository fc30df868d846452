"""Orders of interaction: the weight of a state's terms that involve exactly k pixels (theory.md, eq. W1)."""

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.states.gram import Tree

ENTRIES_AT_A_TIME = 2**14
"""Pairs of polynomials multiplied at a time."""


LARGEST_POLYNOMIALS = 2**26
"""Coefficients of all overlaps of a level: 0.5 GB."""


def orders_fit(channels: tuple[int, ...]) -> bool:
    """Return whether the polynomials of these channels fit into memory."""
    return max((count + 1) ** 2 << level for level, count in enumerate(channels)) <= LARGEST_POLYNOMIALS


def interaction_order(tree: Tree) -> Float[Tensor, "classes orders"]:
    """Return the weights w_0 .. w_N of every class, with sum 1.

    With G^(0) = diag(1, t, .., t) every overlap is a polynomial in t. M1 splits off its constant term: the means are
    numbers, and only the covariance has powers of t, from t^1 on. The polynomials climb the tree as C does in eq. M2.
    Multiplied term by term, they keep the digits of every order: the coefficient of t^k is the covariance of the
    components of order k, and in a norm nothing cancels. (Values at roots of unity would lose all orders whose weight
    is below 1e-16 of the largest one.)
    """
    # (states, states, orders from 1 on); their covariance is the sum over the orders.
    covariance = tree.levels[0].below.covariance.unsqueeze(-1)
    for level in tree.levels:
        left, right = (_congruent(level.bordered[side][1:, 1:], covariance) for side in (0, -1))
        left_means, right_means = (torch.outer(level.mapped[side].mean, level.mapped[side].mean) for side in (0, -1))
        linear = left_means.unsqueeze(-1) * right + left * right_means.unsqueeze(-1)
        covariance = _product(left, right)
        covariance[..., : linear.shape[-1]] += linear
    constant = (tree.top @ tree.states.mean).square().unsqueeze(-1)
    weights = torch.cat((constant, torch.einsum("yi,ijk,yj->yk", tree.top, covariance, tree.top)), dim=1).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def _congruent(matrix: Float[Tensor, "rows columns"], polynomials: Float[Tensor, "columns columns orders"]) -> Tensor:
    """Return matrix P matrix^T, order by order."""
    by_order = polynomials.movedim(-1, 0)
    return (matrix @ by_order @ matrix.mT).movedim(0, -1)


def _product(
    left: Float[Tensor, "states states orders"], right: Float[Tensor, "states states orders"]
) -> Float[Tensor, "states states all_orders"]:
    """Return the products of polynomials that begin with t^1, entry by entry, beginning with t^1."""
    orders = left.shape[-1]
    first, second = torch.triu_indices(len(left), len(left), device=left.device)
    products = []
    for a, b in zip(
        left[first, second].split(ENTRIES_AT_A_TIME), right[first, second].split(ENTRIES_AT_A_TIME), strict=True
    ):
        product = a.new_zeros(len(a), 2 * orders)
        for power in range(orders):
            product[:, power + 1 : power + 1 + orders] += a[:, power : power + 1] * b
        products.append(product)
    result = left.new_empty(*left.shape[:2], 2 * orders)
    result[first, second] = result[second, first] = torch.cat(products)
    return result
