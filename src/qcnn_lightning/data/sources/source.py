"""The protocol of a source of images."""

from qcnn_lightning.data.images import LabelledImages
from qcnn_lightning.errors import InputError


class Source:
    """A source of labelled images: `Source(**settings)`.

    Its settings are the keys of `data` that the data module does not use itself. The constructor checks them. A source
    must have `load`.

    Attributes:
        num_test_images: images to hold out if there is no split "test"; None for `data.test_fraction` of them.
    """

    num_test_images: int | None = None

    def image_shape(self, size: int | None) -> tuple[int, int]:
        """Return the (height, width) of the images that `load` will return, without fetching anything.

        Args:
            size: `data.size`: height and width to resize images to.

        Raises:
            InputError: this source gives no images of that size.
        """
        if size is None:
            raise InputError("data.size=null: give the height and width to resize images to, in pixels")
        return size, size

    def content(self) -> str | None:
        """Return a hash of the images' origin, their key in `data.cache`; None if they are made quickly, uncached."""
        return None

    def fetch(self) -> None:
        """Fetch what `load` reads; several processes may do so at once."""

    def verify(self) -> None:
        """Check the origin of cached images, so an altered file is noticed."""

    def load(self, shape: tuple[int, int]) -> LabelledImages:
        """Return the images; called after `fetch`.

        Args:
            shape: (height, width), returned by `image_shape`.
        """
        raise NotImplementedError
