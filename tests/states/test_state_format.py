"""The state file: `rebuild_amplitudes.py` reads it with NumPy alone, and older files stay readable."""

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_networks import moved_network, random_tensors
from safetensors.torch import save_file

from qcnn_lightning import NetworkState
from qcnn_lightning.data.flattening import lay_on_chain, pixel_order
from qcnn_lightning.errors import InputError
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.state_file import EARLIER_FORMATS, digest

SCRIPT = Path(__file__).with_name("rebuild_amplitudes.py")
PAGE = Path(__file__).parents[2] / "docs" / "state_format.md"
amplitudes = runpy.run_path(str(SCRIPT))["amplitudes"]


@pytest.mark.parametrize("basis", ["fourier", "legendre"])
@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_a_stranger_rebuilds_amplitudes_of_upright_images(tmp_path: Path, sharing: str, basis: str) -> None:
    order = pixel_order("z_left_right", 3, 5)
    with torch.no_grad():
        state = moved_network(16, 4, sharing=sharing, basis=basis).state()
    state = state.described(["a", "b", "c"], ImageLayout.of(order, (3, 5)))
    state.save(tmp_path / "state.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 5), dtype=np.uint8)
    theirs, names = amplitudes(tmp_path / "state.safetensors", images)
    ours = state.amplitude(lay_on_chain(torch.from_numpy(images), order))
    np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-10, atol=1e-12)
    assert names == ["a", "b", "c"]


def test_the_stranger_uses_no_code_of_ours_and_few_lines() -> None:
    lines = SCRIPT.read_text().splitlines()
    assert len(lines) <= 40
    assert [line for line in lines if line.startswith(("import", "from"))] == [
        "import json",
        "import sys",
        "from pathlib import Path",
        "import numpy as np",
    ]
    assert SCRIPT.read_text().strip() in PAGE.read_text()


def test_what_a_file_says_of_itself_comes_back(tmp_path: Path) -> None:
    layout = ImageLayout.of(pixel_order("left_right", 2, 3), (2, 3))
    state = NetworkState(*random_tensors([2, 3, 4, 5], 3, 2), class_names=["é", "b", "c"], layout=layout)
    state.save(tmp_path / "state.safetensors")
    loaded = NetworkState.load(tmp_path / "state.safetensors")
    assert loaded == state
    assert (loaded.class_names, loaded.layout) == (("é", "b", "c"), layout)
    picture = loaded.layout.on_image(loaded.block_entropies(0))
    assert picture.shape == (3, 2, 3)
    assert picture[1, 1, 2] == loaded.block_entropies(0)[1, layout.pixel_order.index(5)]


def test_where_white_lies_comes_back_and_no_state_is_taken_for_one_of_another_white(tmp_path: Path) -> None:
    tensors = random_tensors([2, 3, 4], 3, 2)
    state, paper = NetworkState(*tensors, white=0.75), NetworkState(*tensors)
    state.save(tmp_path / "state.safetensors")
    x = torch.rand(5, 4, dtype=torch.float64)
    loaded = NetworkState.load(tmp_path / "state.safetensors")
    assert loaded == state != paper
    for same in (loaded, copy.deepcopy(state), state[:], state.described(None, None), NetworkState.sum([state])):
        torch.testing.assert_close(same.amplitude(x), paper.amplitude(0.75 * x), rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match=r"data\.white=0\.75 and 1\.0 cannot be compared"):
        state.overlaps(paper)


@pytest.mark.parametrize("with_checksum", [True, False])
def test_files_of_earlier_formats_are_read(tmp_path: Path, with_checksum: bool) -> None:
    state = NetworkState(*random_tensors([2, 3, 4], 3, matrices=2))
    tensors = {"site_tensor_0": state.site_tensors[0], "site_tensor_1": state.site_tensors[1], "top": state.top}
    metadata = {"format": EARLIER_FORMATS[0 if with_checksum else 1], "basis": "fourier", "num_levels": "2"}
    if with_checksum:
        metadata["sha256"] = digest(tensors, metadata)
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    loaded = NetworkState.load(tmp_path / "old.safetensors")
    assert loaded == state
    assert (loaded.class_names, loaded.layout) == (None, None)


def test_conventions_that_this_version_does_not_know_are_refused(tmp_path: Path) -> None:
    state = NetworkState(*random_tensors([2, 3], 3, matrices=2))
    tensors = {"site_tensor_0": state.site_tensors[0], "top": state.top}
    for key, value in (("pooling", "sum"), ("grey_levels", "x = g / 340"), ("class_names", "[1"), ("format", "3")):
        metadata = {"format": "qcnn_lightning.NetworkState 2", "basis": "fourier", "num_levels": "1", key: value}
        metadata["sha256"] = digest(tensors, metadata)
        save_file(tensors, tmp_path / "other.safetensors", metadata)
        with pytest.raises(InputError, match=r"other\.safetensors"):
            NetworkState.load(tmp_path / "other.safetensors")


def test_layouts_and_names_that_do_not_fit() -> None:
    tensors = random_tensors([2, 3, 4], 3, matrices=2)
    with pytest.raises(InputError, match="class_names has 2 names, the state has 3 classes"):
        NetworkState(*tensors, class_names=["a", "b"])
    with pytest.raises(InputError, match="layout has 8 sites, the state has 4"):
        NetworkState(*tensors, layout=ImageLayout.of(range(8), (2, 4)))
    with pytest.raises(InputError, match="no order of the pixels of a 2 x 2 image"):
        ImageLayout.of([0, 1, 1, 3], (2, 2))
