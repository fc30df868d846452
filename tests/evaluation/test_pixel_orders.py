import numpy as np
import pytest
from matplotlib.image import imread

from qcnn_lightning.evaluation.pixel_orders import draw_pixel_orders


@pytest.mark.parametrize("size", [4, 11])
def test_picture_shows_the_two_halves_of_every_order(tmp_path, size):
    draw_pixel_orders(size, tmp_path / "orders.png")
    picture = imread(tmp_path / "orders.png")
    panels = np.array_split(picture[..., :3], 4, axis=1)
    for panel, across in zip(panels, (1, 0, 1, 0), strict=True):
        blue = panel[..., 2] > panel[..., 0] + 0.1
        orange = panel[..., 0] > panel[..., 2] + 0.1
        # most of the first half of the panel is blue, most of the second orange
        centre = [np.argwhere(colour)[:, across].mean() / panel.shape[across] for colour in (blue, orange)]
        assert centre[0] < 0.45 < 0.55 < centre[1]
