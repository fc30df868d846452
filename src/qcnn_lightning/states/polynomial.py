"""Orders of interaction: the weight of a state's terms that involve exactly k pixels (theory.md, eq. W1)."""

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.states.gram import Tree

ENTRIES_AT_A_TIME = 2**8
"""Pairs of polynomials multiplied at a time: few, so that they stay in the cache."""
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
    # (orders from 1 on, states, states); their covariance is the sum over the orders.
    covariance = tree.levels[0].below.covariance.unsqueeze(0)
    for level in tree.levels:
        maps = [level.bordered[side][1:, 1:] for side in (0, -1)]
        left, right = (matrix @ covariance @ matrix.mT for matrix in maps)
        left_means, right_means = (torch.outer(level.mapped[side].mean, level.mapped[side].mean) for side in (0, -1))
        linear = left_means * right + left * right_means
        covariance = _product(left, right)
        covariance[: len(linear)] += linear
    constant = (tree.top @ tree.states.mean).square().unsqueeze(-1)
    weights = torch.cat((constant, torch.einsum("yi,kij,yj->yk", tree.top, covariance, tree.top)), dim=1).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def _product(
    left: Float[Tensor, "orders states states"], right: Float[Tensor, "orders states states"]
) -> Float[Tensor, "all_orders states states"]:
    """Return the products of polynomials that begin with t^1, entry by entry, beginning with t^1."""
    orders = len(left)
    result = left.new_empty(2 * orders, *left.shape[1:])
    upper = torch.triu_indices(*left.shape[1:], device=left.device)
    for first, second in upper.split(ENTRIES_AT_A_TIME, dim=1):
        a, b = left[:, first, second], right[:, first, second]
        product = a.new_zeros(2 * orders, a.shape[1])
        for power in range(orders):
            product[power + 1 : power + 1 + orders].addcmul_(a[power], b)
        result[:, first, second] = result[:, second, first] = product
    return result
