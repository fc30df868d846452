"""What all trees of tensors have in common: what their shapes say, and that their block states are computed once."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from qcnn_lightning.errors import InputError

Blocks = TypeVar("Blocks")


class TreeSizes:
    """Properties of a state with site tensors and a top."""

    site_tensors: tuple[Tensor, ...]
    top: Tensor
    _kept: tuple[tuple[Tensor, ...], list[tuple[int, int | None]], Any] | None = None

    def blocks_by(self, build: Callable[[], Blocks]) -> Blocks:
        """Return all block states: kept, unless gradients flow back through them or a tensor was changed in place."""
        tensors = (*self.site_tensors, self.top)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return build()
        # An inference tensor counts no changes. A copy of the state has its tensors elsewhere.
        versions = [(tensor.data_ptr(), None if tensor.is_inference() else tensor._version) for tensor in tensors]
        if self._kept is None or self._kept[1] != versions:
            with torch.no_grad():
                # The tensors are kept, too, so that none takes another's place in memory.
                self._kept = tensors, versions, build()
        blocks: Blocks = self._kept[2]
        return blocks

    @property
    def num_levels(self) -> int:
        """L, the pooling levels."""
        return len(self.site_tensors)

    @property
    def num_sites(self) -> int:
        """N = 2^L, the pixels and padding."""
        return 2**self.num_levels

    @property
    def num_classes(self) -> int:
        """The number of states."""
        return len(self.top)

    def check_level(self, level: int) -> None:
        """Check the level of some blocks.

        Raises:
            InputError: there is none such.
        """
        if not 0 <= level < self.num_levels:
            raise InputError(
                f"level={level}: a state of {self.num_sites} pixels has levels 0 (one pixel) "
                f"to {self.num_levels - 1} (half the image)"
            )
