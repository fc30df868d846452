"""A density for every class: p(y, x) = p(y) p(x | y), each p(x | y) a mixture of states (theory.md, eq. N7)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.checks import checked_label
from qcnn_lightning.states.density import DensityState
from qcnn_lightning.states.ensemble import check_comparable
from qcnn_lightning.states.likelihood import Images, Likelihood, check_possible, observed_images
from qcnn_lightning.states.mps import MPSState


class ClassDensities(Likelihood):
    """p(y, x) = p(y) sum_k |<x|Psi_yk>|^2 / Z_y, where the states |Psi_yk> of class y are those of one density.

    Classes share nothing, so this is one state with block-diagonal matrices, but never built as one. A class is a
    mixture of states: it has likelihoods and samples, and no amplitude.

    Args:
        densities: one per class, of images with the same sites.
        prior: p(y), up to a factor: such as numbers of images.

    Raises:
        InputError: densities of different images, or other than as many positive numbers.
    """

    def __init__(self, densities: Sequence[DensityState | MPSState], prior: Tensor):
        self.densities, weights = tuple(densities), torch.as_tensor(prior).double()
        if weights.shape != (len(self.densities),) or not (weights > 0).all():
            raise InputError(f"prior={weights.tolist()}: expected {len(self.densities)} positive numbers, one a class")
        self.prior: Float[Tensor, " classes"] = weights / weights.sum()
        for other in self.densities[1:]:
            check_comparable(self.densities[0], other)
            if not torch.equal(self.densities[0].padding, other.padding):
                raise InputError(
                    "densities with pixels at other sites make no density of classes: their padding differs"
                )

    @property
    def num_sites(self) -> int:
        """N, pixels and padding."""
        return self.densities[0].num_sites

    @property
    def num_classes(self) -> int:
        """The number of densities."""
        return len(self.densities)

    def log_joint(self, x: Images) -> Float[Tensor, "batch classes"]:
        """Return log p(y, x) = log p(y) + log p(x | y), nats; missing pixels (NaN) are summed over.

        Args:
            x: as `DensityState.log_joint` takes it.

        Raises:
            InputError: as there.
        """
        return self.prior.log() + torch.stack([density.log_probability(x) for density in self.densities], dim=-1)

    @torch.no_grad()
    def pixel_probabilities(self, observed: Images, label: int | None = None) -> Float[Tensor, "batch sites levels"]:
        """Return p(x_p = x_k | known pixels), as `DensityState.pixel_probabilities`.

        Args:
            observed: as `log_joint` takes it.
            label: of this class; None for the mixture of all.

        Raises:
            InputError: as there.
        """
        if label is not None:
            return self._of(label).pixel_probabilities(observed)
        posterior = self.conditional_probability(observed)
        each = torch.stack([density.pixel_probabilities(observed) for density in self.densities])
        return torch.einsum("my,ympk->mpk", posterior, each)

    @torch.no_grad()
    def sample(
        self, num_samples: int, label: int | None = None, observed: Images | None = None, seed: int = 0
    ) -> Float[Tensor, "samples sites"]:
        """Draw images from p(x), p(x | y) or p(x | known pixels), exactly and independently.

        The class of every sample is drawn from p(y | known pixels), then its pixels from this class's density.

        Args:
            num_samples: how many.
            label: y; None for the mixture of all classes.
            observed: as `DensityState.sample` takes it.
            seed: of the draws.

        Raises:
            InputError: as there.
        """
        if label is not None:
            return self._of(label).sample(num_samples, None, observed, seed)
        pixels = observed_images(observed, num_samples, self.num_sites, self.densities[0].white)
        joint = self.log_joint(pixels)
        check_possible(joint)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(joint.softmax(-1).expand(num_samples, -1), 1, generator=generator).squeeze(1)
        images = torch.empty(num_samples, self.num_sites, dtype=torch.float64)
        for label, density in enumerate(self.densities):
            own = (chosen == label).nonzero().flatten()
            if len(own):
                known = pixels if len(pixels) == 1 else pixels[own]
                # Seeds of their own: classes are independent.
                own_seed = int(torch.randint(2**31, (1,), generator=generator))
                images[own] = density.sample(len(own), None, known, own_seed)
        return images

    def _of(self, label: int) -> DensityState | MPSState:
        return self.densities[checked_label(label, self.num_classes)]
