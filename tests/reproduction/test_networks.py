"""The trained networks that are kept in the repository, for tests and readers."""

from pathlib import Path

import pytest
import torch

from composing import evaluation_of
from qcnn_lightning import NetworkState
from qcnn_lightning.runs.checkpoint import read_checkpoint
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.settings import PATHS_IN_A_CONFIG, without_paths
from qcnn_lightning.states.contraction import TensorNetworkState

NETWORKS = sorted((Path(__file__).parents[2] / "reproduction" / "networks").glob("*.ckpt"))


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_a_kept_network_has_the_entropies_that_tensornetwork_contracts(path):
    checkpoint = read_checkpoint(path)
    network, settings = network_of(checkpoint), without_paths(checkpoint.config)
    assert path.stem == f"{settings['data']['name']}_{settings['model']['sharing']}"
    state = NetworkState.from_network(network)
    entropies = state.entanglement_entropy()
    assert entropies.mean() > 0.02, "trained states are entangled"
    contracted = TensorNetworkState(state).entanglement_entropy()
    torch.testing.assert_close(contracted, entropies, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_only_sibling_weights_tell_left_from_right(path):
    checkpoint = read_checkpoint(path)
    network, settings = network_of(checkpoint), without_paths(checkpoint.config)
    images = torch.randint(256, (20, network.num_sites), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exchanged = images.roll(network.num_sites // 2, dims=1)
    same = torch.allclose(network(images), network(exchanged), rtol=1e-4)
    assert same == (settings["model"]["sharing"] == "full")


@pytest.mark.parametrize(("sharing", "least"), [("full", 0.6), ("sibling", 0.9)])
def test_a_kept_network_can_be_evaluated_without_training_or_downloads(sharing, least, tmp_path):
    path = next(path for path in NETWORKS if path.stem == f"digits_{sharing}")
    evaluation, folder = evaluation_of(f"checkpoint={path}", f"out={tmp_path}", figures="[png]")
    assert evaluation.classification.accuracy > least
    assert NetworkState.load(folder / "state.safetensors").num_sites == 64
    assert (folder / "entropies.png").is_file()


def test_kept_networks_are_small_and_say_nothing_of_where_they_were_made():
    assert {path.stem.split("_")[1] for path in NETWORKS} == {"full", "sibling"}
    for path in NETWORKS:
        assert path.stat().st_size < 200_000
        settings = read_checkpoint(path).config
        assert not set(PATHS_IN_A_CONFIG[""]) & set(settings)
        assert not set(PATHS_IN_A_CONFIG["data"]) & set(settings["data"])
