"""Trees of dense tensors: a node maps the features of its two children by a full tensor (refs 30, 31 of the paper)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Inexact
from torch import Tensor, nn

from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.models.channels import channels_up_to
from qcnn_lightning.models.model import check_choice
from qcnn_lightning.models.tree import SHARINGS, TreeModel, check_start, matrices_of
from qcnn_lightning.states.dense_gram import joined_features
from qcnn_lightning.states.dense_tree import DenseTreeState


class TTN(TreeModel):
    """zeta'_n,i = sum_jk T_n,ijk zeta_2n,j zeta_2n+1,k at every node n of a level, alpha = a zeta.

    zeta^(0)_p = (f_0(x_p), .., f_d0(x_p)). Product pooling is the special case T_ijk = a_ij a'_ik.

    Args:
        num_sites: N = 2^L, pixels of the flattened image.
        num_classes: number of classes.
        d: d_0, local functions besides the constant one.
        bond: most channels of a level: level l >= 1 has min((d_0 + 1)^(2^l), bond), as many as a block has states.
        basis: "fourier" (d_0 must be even), "legendre", "levels" (d_0 + 1 grey levels), or your own class.
        channels: numbers of channels that enter levels 1 .. L, in place of `bond`; None for `bond`.
        sharing: "full", one tensor per level; "sibling", one for left and one for right nodes of a level; "none", one
            per node.
        start: "product_state", near a product state; "default", PyTorch's initialisation of a linear layer; or the
            `.safetensors` file of a `DenseTreeState` with these channels.
        spread: size of the random part of the lowest tensors at the product-state start.
        scores: "normalised", with squares p(y|x), which never over- or underflow; or "amplitude", alpha_y(x) itself.
        dtype: of the weights: "real" or "complex".
        white: where the grey level 1 lies in the basis's interval [0, 1]; x lies at white x.

    Raises:
        InputError: a value that no tree can have.
    """

    @checked_settings
    def __init__(
        self,
        num_sites: int | np.integer,
        num_classes: int | np.integer,
        d: int | np.integer = 4,
        bond: int | np.integer = 16,
        basis: str = "fourier",
        channels: Sequence[int] | None = None,
        sharing: str = "full",
        start: str = "product_state",
        spread: float = 0.3,
        scores: str = "normalised",
        dtype: str = "real",
        white: int | float = 1.0,
    ):
        super().__init__(num_sites, num_classes, basis, int(d), white, scores, dtype)
        check_choice("sharing", sharing, SHARINGS)
        check_start(start)
        if spread <= 0:
            raise InputError(f"model.spread={spread}: must be positive")
        self.sharing = sharing
        self.channels = channels_up_to(int(d) + 1, self.num_levels, int(bond), channels, "bond")
        self.levels = nn.ParameterList()
        for level in range(self.num_levels):
            nodes = matrices_of(sharing, self.num_sites >> (level + 1))
            shape = (nodes, self.channels[level + 1], self.channels[level], self.channels[level])
            self.levels.append(self.drawn(*shape, legs=2, start=start, spread=spread, of_pixels=level == 0))
        of_top = (self.num_classes, self.channels[-1])
        self.top = self.drawn(*of_top, legs=1, start=start, spread=spread, constant=1 / self.num_classes)
        self.begin(start, DenseTreeState)

    @classmethod
    def from_state(cls, state: DenseTreeState, **settings: Any) -> "TTN":
        """Return the network with the amplitudes of a state, such as `network.state().to_dense_tree()` of a q-CNN.

        It is in double precision, as states are; `.float()` is enough to train it.

        Args:
            state: of nodes that are all shared, alternate, or have their own tensors.
            settings: `scores`, as the constructor takes it.

        Raises:
            InputError: the levels of the state share their nodes in different ways.
        """
        nodes = [len(tensor) for tensor in state.site_tensors]
        sharings = [
            sharing
            for sharing in SHARINGS
            if nodes == [matrices_of(sharing, state.num_sites >> (level + 1)) for level in range(state.num_levels)]
        ]
        if not sharings:
            raise InputError(f"{state!r}: its levels share nodes in different ways, as no model=ttn does")
        local, *channels = state.channels
        dtype = "complex" if state.top.is_complex() else "real"
        network = cls(
            state.num_sites,
            state.num_classes,
            local - 1,
            basis=state.basis.name,
            channels=channels,
            sharing=sharings[0],
            dtype=dtype,
            white=state.white,
            **settings,
        ).double()
        network.take_over(state.site_tensors, state.top)
        return network

    def joined(self, features: Inexact[Tensor, "nodes batch _"], tensor: Tensor) -> Inexact[Tensor, "nodes//2 batch _"]:
        """Return sum_jk T_ijk zeta_2n,j zeta_2n+1,k."""
        return joined_features(features, tensor)

    def state(self, statistics: None = None) -> DenseTreeState:
        """Return the states with <x|Psi_y> = alpha_y(x), double precision, on the CPU; differentiable.

        Normalised scores are these amplitudes up to one factor per image.
        """
        site_tensors, top = self.state_tensors()
        return DenseTreeState(site_tensors, top, self.basis.name, white=self.white)
