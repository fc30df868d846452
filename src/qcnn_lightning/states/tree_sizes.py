"""What the shapes of a tree's tensors say: levels, sites, classes."""

from torch import Tensor

from qcnn_lightning.errors import InputError


class TreeSizes:
    """Properties of a state with site tensors and a top."""

    site_tensors: tuple[Tensor, ...]
    top: Tensor

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
            raise InputError(f"level={level}: expected 0 (one pixel) to {self.num_levels - 1} (half the image)")
