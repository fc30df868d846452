"""What the data module asks of a source of images."""

from qcnn_lightning.data.images import LabelledImages
from qcnn_lightning.errors import InputError


class Source:
    """A place that labelled images come from: `Source(**settings)`.

    Its settings are the keys of `data` that the data module leaves to it. The constructor checks them. `load` is all
    that a source must have.

    Attributes:
        num_test_images: how many images are held out where there is no split "test"; None leaves it to
            `data.test_fraction`.
    """

    num_test_images: int | None = None

    def image_shape(self, size: int | None) -> tuple[int, int]:
        """Return (height, width) of the images that `load` is to give; nothing is fetched for it.

        Args:
            size: `data.size`, the height and width that images are resized to.

        Raises:
            InputError: this source gives no images of that size.
        """
        if size is None:
            raise InputError("data.size=null: these images need a height and width to be resized to, in pixels")
        return size, size

    def content(self) -> str | None:
        """Return a hash of what the images are made from, by which resized images are kept in `data.cache`.

        None, where making them is quick, keeps none.
        """
        return None

    def fetch(self) -> None:
        """Put what `load` reads where it reads it; safe when several processes do it at once."""

    def verify(self) -> None:
        """Check what is there, although the images are in the cache: whoever altered it should hear of it."""

    def load(self, shape: tuple[int, int]) -> LabelledImages:
        """Make the images; called once `fetch` has returned.

        Args:
            shape: (height, width), as `image_shape` returned it.
        """
        raise NotImplementedError
