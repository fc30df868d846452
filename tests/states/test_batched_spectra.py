import pytest
import torch

from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.states.entropy import spectra_of_halves


@pytest.mark.parametrize("sharing", ["full", "sibling"])
@pytest.mark.parametrize("count", [1, 3])
def test_spectra_of_several_networks_are_those_of_each(sharing, count):
    torch.manual_seed(0)
    states = []
    for number in range(count):
        network = QCNN(32, 3, d=4, sharing=sharing, start="default" if number % 2 else "product_state").double()
        network.fix_population_statistics(torch.randint(0, 256, (40, 32), dtype=torch.uint8))
        states.append(NetworkState.from_network(network))
    tensors = [torch.stack(level, dim=1) for level in zip(*(state.site_tensors for state in states), strict=True)]
    together = spectra_of_halves(tensors, torch.stack([state.top for state in states]))
    for spectrum, state in zip(together, states, strict=True):
        torch.testing.assert_close(spectrum, state.schmidt_spectrum(), rtol=1e-9, atol=1e-13)
