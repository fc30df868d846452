"""PyTorch's compilers follow a q-CNN: the same scores, in one graph. `test_compilers` collects this in a process of its
own: PyTorch cannot follow the type checks that all other tests have."""

import copy

import pandas as pd
import pytest
import torch

from qcnn_lightning import QCNN


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = QCNN(num_sites=16, num_classes=3, d=4).double()
    network.fix_population_statistics(images())
    return network


def images(number=20):
    return torch.randint(0, 256, (number, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


@pytest.mark.parametrize("kernel", ["auto", "plain"])
@pytest.mark.parametrize("grey_levels", [images(), images() / 255])
def test_compiled_evaluation_is_one_graph_with_the_same_scores(network, kernel, grey_levels):
    network.eval().kernel = kernel
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(grey_levels), network(grey_levels), rtol=1e-10, atol=1e-10)


def test_compiled_evaluation_uses_the_operator(network):
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    with torch.no_grad():
        torch.compile(network.eval(), fullgraph=True, backend=keep)(images())
    assert "qcnn_lightning.scores" in graphs[0].code


def test_compiled_training_has_the_same_gradients_and_moves_the_same_averages(network):
    twin = QCNN(num_sites=16, num_classes=3, d=4).double()
    twin.load_state_dict(network.state_dict())
    compiled = torch.compile(twin.train(), fullgraph=True, backend="aot_eager")
    for scores in (network.train()(images()), compiled(images())):
        scores.square().sum().backward()
    torch.testing.assert_close(twin.levels[0].weight.grad, network.levels[0].weight.grad, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(twin.state_dict(), network.state_dict(), rtol=1e-10, atol=1e-10)


def test_compiled_steps_of_several_networks_are_the_plain_ones(network):
    from qcnn_lightning.costs import SquaredDistance
    from qcnn_lightning.models.networks import Networks
    from qcnn_lightning.training.row_optimizers import AdamOfRows, settings_of
    from qcnn_lightning.training.together import whole_step

    weights, costs = [], []
    for compiled in (False, True):
        members = [copy.deepcopy(network.train()) for _ in range(3)]
        together = Networks(members)
        optimizers = [torch.optim.AdamW(member.parameters(), lr=0.1**place) for place, member in enumerate(members, 1)]
        together.attach_gradients()
        adam = AdamOfRows(optimizers, together)
        if compiled:
            together.compile("aot_eager")
            adam.compile("aot_eager")
        step = whole_step(together, adam, SquaredDistance())
        adam.begin([[settings_of(optimizer)] * 4 for optimizer in optimizers])
        labels = torch.arange(60).view(3, 20) % 3
        batch = images(60).view(3, 20, 16)
        costs.append(torch.stack([step(batch, labels, numbers) for numbers in adam.numbers]))
        weights.append(together.weights)
    torch.testing.assert_close(*costs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*weights, rtol=1e-10, atol=1e-10)


def test_a_run_whose_steps_are_compiled_is_the_run(tmp_path, monkeypatch):
    """As on a GPU, to its end, but for the graph: every step is the compiled function itself."""
    from hydra import compose, initialize_config_module

    from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers
    from qcnn_lightning.models.networks import Networks
    from qcnn_lightning.training import together
    from qcnn_lightning.training.row_optimizers import AdamOfRows
    from qcnn_lightning.training.run import train

    compiled, tables = [], []
    monkeypatch.setattr(together, "can_capture", lambda networks: True)
    monkeypatch.setattr(together, "CapturedStep", lambda step, changed: step)
    monkeypatch.setattr(together, "can_compile", lambda: True)
    for kind in (Networks, AdamOfRows):
        plain = kind.compile
        monkeypatch.setattr(kind, "compile", lambda self, plain=plain: compiled.append(plain(self, "aot_eager")))
    for worth_compiling in (1, 10**9):
        monkeypatch.setattr(together, "WORTH_COMPILING", worth_compiling)
        with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
            settings = ("data=digits", "model.d=4", "model.kernel=plain", "trainer.precision=64-true", "logger=none")
            run_dir = tmp_path / str(worth_compiling)
            config = compose("train", [*settings, "trainer.max_epochs=3", f"run_dir={run_dir}"])
        group = together.Group()
        train(config, company=together.Company(together.Alone(group), group))
        tables.append(pd.read_csv(run_dir / "metrics.csv").filter(regex="^(?!time)"))
    assert len(compiled) == 2
    pd.testing.assert_frame_equal(*tables, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("grey_levels", [images(), images() / 255])
def test_an_exported_network_has_the_same_scores_for_any_number_of_images(network, grey_levels):
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(network.eval(), (grey_levels,), dynamic_shapes=({0: batch},), strict=False)
    more = torch.cat([grey_levels, grey_levels[:7]])
    torch.testing.assert_close(exported.module()(more), network(more), rtol=1e-10, atol=1e-10)


def test_the_operator_and_its_shapes_are_as_pytorch_expects(network):
    from qcnn_lightning.kernels.cpu_kernel import evaluated_scores

    levels = network.all_levels
    parameters = [
        *(level.gamma for level in levels),
        *(level.beta for level in levels),
        *(level.weight for level in levels),
    ]
    statistics = [level.statistics() for level in levels]
    arguments = (
        images(),
        network.grey_level_functions(torch.float64, torch.device("cpu")),
        [parameter.detach() for parameter in parameters],
        *([tensor.detach() for tensor in column] for column in zip(*statistics, strict=True)),
        [level.epsilon for level in levels],
        False,
    )
    torch.library.opcheck(evaluated_scores, arguments, test_utils=("test_schema", "test_faketensor"))
