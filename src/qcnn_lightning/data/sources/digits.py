"""scikit-learn's 8x8 digits: bundled, no files."""

import numpy as np
import torch
from PIL import Image

from qcnn_lightning.data.images import LabelledImages, resized
from qcnn_lightning.data.sources.source import Source


class Digits(Source):
    """1797 handwritten digits; their grey levels 0 to 16 become 0 to 255."""

    num_test_images = 360

    def load(self, shape: tuple[int, int]) -> LabelledImages:
        """Return the digits, resized."""
        # Imported here: scikit-learn takes longer to import than everything else, and only this source needs it.
        from sklearn.datasets import load_digits

        digits = load_digits()
        levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        images = resized((Image.fromarray(image) for image in levels), shape)
        labels = torch.from_numpy(digits.target.astype(np.int64))
        return LabelledImages({"train": (images, labels)}, tuple(str(name) for name in digits.target_names))


SOURCES = {"digits": Digits}
