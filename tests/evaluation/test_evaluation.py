import itertools
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix
from torch.nn import functional

from commands import evaluate_command
from composing import composed, evaluation_of
from qcnn_lightning import QCNN, NetworkState, command_line
from qcnn_lightning.costs import SquaredDistance
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.data.flattening import PADDING, lay_on_chain, lay_on_image
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.entanglement import measure_entanglement
from qcnn_lightning.evaluation.evaluate import NUMBERS, STATE, evaluate, rebuild_data
from qcnn_lightning.evaluation.figures import FIGURES, draw_all, draw_entropies
from qcnn_lightning.evaluation.layout import subject
from qcnn_lightning.evaluation.measure import (
    Classification,
    choose_examples,
    disagreement,
    measure,
    spearman,
)
from qcnn_lightning.evaluation.pixel_orders import draw_pixel_orders
from qcnn_lightning.evaluation.tables import show_evaluation
from qcnn_lightning.training.run import train

PROJECT_DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on the digits, in a folder with the characters that job folders have."""
    folder = tmp_path_factory.mktemp("sweep") / "data=digits,model.d=4"
    folder.mkdir()
    overrides = ("data=digits", "data.val_size=100", "model.d=4", "model.sharing=sibling", "trainer.max_epochs=2")
    train(composed("train", *overrides, "scheduler=one_cycle", "logger=none", "sweep.name=test", f"run_dir='{folder}'"))
    return folder


@pytest.fixture(scope="module")
def digits():
    datamodule = ImageDataModule(**composed("train", "data=digits", "sweep.name=test").data)
    datamodule.setup()
    return datamodule


def untrained(datamodule, sharing="sibling", **settings):
    torch.manual_seed(0)
    network = QCNN(datamodule.num_sites, datamodule.num_classes, d=2, sharing=sharing, kernel="plain", **settings)
    network.fix_population_statistics(datamodule.population_sample())
    return network.eval()


def measured(network, datamodule, split="test"):
    settings = {"data": {"name": "digits", "size": 8, "flatten": "left_right"}, "model": {"d": 2}}
    return measure(network, SquaredDistance(), datamodule, split, Path("last.ckpt"), 0, settings)


def test_numbers_are_those_that_training_logged(run, tmp_path):
    evaluation_of(f"run={run}", f"out={tmp_path}")
    numbers = json.loads((tmp_path / NUMBERS).read_text())
    row = pd.read_csv(run / "metrics.csv").iloc[-1]
    assert numbers["epoch"] == row["epoch"] == 1
    assert numbers["cost"] == pytest.approx(row["cost/test"], rel=1e-5)
    assert numbers["accuracy"] == pytest.approx(row["accuracy/test"], abs=1e-7)
    assert numbers["mean_entanglement_entropy"] == pytest.approx(row["ee/mean"], rel=1e-6)
    for label, own in enumerate(numbers["classes"]):
        assert own["name"] == str(label)
        assert own["entanglement_entropy"] == pytest.approx(row[f"ee/class_{label}"], rel=1e-6)
        assert own["renyi_2"] == pytest.approx(row[f"renyi_2/class_{label}"], rel=1e-6)
        assert own["effective_schmidt_rank"] == pytest.approx(np.exp(own["entanglement_entropy"]))
    profile = np.array(numbers["entropy_profile"]).mean(0)
    assert profile == pytest.approx([row[f"profile/level_{level}"] for level in range(len(profile))], rel=1e-6)
    assert numbers["block_sizes"] == [1, 2, 4, 8, 16, 32]


def test_the_state_is_left_beside_the_numbers(run, digits, tmp_path):
    evaluation, folder = evaluation_of(f"run={run}", f"out={tmp_path}")
    state = NetworkState.load(folder / "state.safetensors")
    classes = json.loads((folder / NUMBERS).read_text())["classes"]
    entropies = [own["entanglement_entropy"] for own in classes]
    assert state.entanglement_entropy().tolist() == pytest.approx(entropies, rel=1e-12)
    images, _ = digits.splits["test"]
    assert state.class_names == digits.class_names
    assert state.layout.pixel_order == tuple(digits.pixel_order.tolist())
    ours, theirs = state.conditional_probability(images), evaluation.classification.probabilities
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_classification_is_what_counting_gives(digits):
    network = untrained(digits)
    evaluation = measured(network, digits)
    images, labels = digits.splits["test"]
    alpha = network(images).detach()
    predicted = alpha.abs().argmax(1)
    classification = evaluation.classification
    assert np.array_equal(classification.confusion, confusion_matrix(labels, predicted, labels=range(10)))
    assert classification.accuracy == pytest.approx((predicted == labels).double().mean().item())
    assert classification.cost == pytest.approx(
        10 * functional.mse_loss(alpha, functional.one_hot(labels, 10).float()).item(), rel=1e-5
    )
    right = [(predicted[labels == label] == label).double().mean() for label in range(10)]
    assert torch.allclose(classification.class_accuracies, torch.stack(right))
    probability = alpha.double().square() / alpha.double().square().sum(1, keepdim=True)
    own = [probability[labels == label, label].mean() for label in range(10)]
    assert torch.allclose(classification.class_probabilities, torch.stack(own), rtol=1e-4)
    expected = spearmanr(evaluation.entanglement.entropy, 1 - np.array(right))
    assert evaluation.entropy_and_error == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize("error", [(0.1, 0.2, 0.3), (0.3, 0.1, 0.3, 0.2, 0.0)], ids=str)
def test_the_p_value_of_few_classes_is_that_of_all_permutations(error):
    entropy = np.arange(len(error)) ** 2.0
    statistic, p_value = spearman(entropy, np.array(error))
    shuffled = np.array([spearmanr(entropy, one).statistic for one in itertools.permutations(error)])
    tails = (shuffled >= statistic - 1e-9).mean(), (shuffled <= statistic + 1e-9).mean()
    assert statistic == pytest.approx(spearmanr(entropy, error).statistic)
    assert p_value == pytest.approx(min(1, 2 * min(tails)))


def test_figures_and_numbers_name_other_models_than_the_paper(tmp_path):
    overrides = ("data=digits", "model=mps", "model.bond=2", "trainer.max_epochs=1", "logger=none", "sweep.name=test")
    train(composed("train", *overrides, f"run_dir='{tmp_path}'"))
    evaluation, folder = evaluate(composed("evaluate", f"run='{tmp_path}'", "figures=[]"))
    assert json.loads((folder / NUMBERS).read_text())["model"]["class"] == "MPS"
    right = replace(evaluation.classification, confusion=torch.eye(10, dtype=torch.int64))
    _, errors = draw_entropies(replace(evaluation, classification=right)).axes
    assert errors.get_xlim()[0] == 0
    assert subject(evaluation) == "digits, left/right, MPS, d = 1, bond = 2, seed 0, epoch 0"


@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_entanglement_is_that_of_the_states(digits, sharing):
    network = untrained(digits, sharing)
    state = NetworkState.from_network(network)
    entanglement = measure_entanglement(state)
    for ours, theirs in (
        (entanglement.entropy, state.entanglement_entropy()),
        (entanglement.renyi_2, state.renyi_entropy(2)),
        (entanglement.effective_schmidt_rank, state.effective_schmidt_rank()),
        (entanglement.log_norm, state.log_norm()),
        (entanglement.overlaps, state.overlaps()),
        (entanglement.profile, state.entropy_profile()),
        (entanglement.mean_order, state.interaction_order() @ torch.arange(65.0).double()),
    ):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)
    assert entanglement.sites_are_alike == (sharing == "full")


def test_scores_that_are_not_the_states_amplitudes_are_told(digits, capsys, tmp_path):
    network = untrained(digits)
    evaluation = measured(network, digits)
    assert evaluation.classification.disagreement < 1e-4
    show_evaluation(evaluation, tmp_path)
    assert "warning" not in capsys.readouterr().out
    with torch.no_grad():
        state = NetworkState.from_network(network)
        network.classification.weight.mul_(1.1)
        disagreeing = disagreement(network, state, digits.splits["test"][0])
    assert disagreeing == pytest.approx(0.1, rel=0.2)
    evaluation = replace(evaluation, classification=replace(evaluation.classification, disagreement=disagreeing))
    show_evaluation(evaluation, tmp_path)
    assert "scores and amplitudes differ by 0.1" in capsys.readouterr().out


def test_every_pixel_has_its_own_entropy_on_the_image():
    # 5 x 5 pixels on 32 sites: seven of them are padding.
    settings = composed("train", "data=digits", "data.size=5", "data.flatten=z_left_right", "sweep.name=test").data
    datamodule = ImageDataModule(**settings)
    datamodule.setup()
    evaluation = measured(untrained(datamodule), datamodule)
    assert evaluation.pixel_entropies.shape == (10, 5, 5)
    entropies = evaluation.entanglement.block_entropies[0]
    seen = 0
    for site, pixel in enumerate(datamodule.pixel_order.tolist()):
        if pixel != PADDING:
            assert torch.equal(evaluation.pixel_entropies[:, pixel // 5, pixel % 5], entropies[:, site])
            seen += 1
    assert seen == 25


def test_probabilities_sum_to_one_and_choose_what_the_network_chooses_on_all_of_mnist():
    try:
        datamodule = ImageDataModule(
            **composed("train", "data=mnist", f"data.root={PROJECT_DATA}", "sweep.name=t").data
        )
        datamodule.prepare_data()
    except InputError as error:
        if "could not be found or fetched" in str(error) and "CI" not in os.environ:
            pytest.skip(str(error))
        raise
    datamodule.setup()
    torch.manual_seed(0)
    network = QCNN(num_sites=256, num_classes=10, d=4, sharing="sibling")
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    images, labels = datamodule.splits["train"]
    for step in range(200):
        batch = slice(50 * step, 50 * (step + 1))
        cost = (network(images[batch]) - functional.one_hot(labels[batch], 10)).square().sum(1).mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    network.double().fix_population_statistics(datamodule.population_sample())
    evaluation = measured(network.eval(), datamodule)
    assert evaluation.classification.accuracy > 0.8
    probabilities = evaluation.classification.probabilities
    assert len(probabilities) == 10000
    assert (probabilities.sum(1) - 1).abs().max() < 1e-12
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    with torch.no_grad():
        chosen = torch.cat([network(batch).abs().argmax(1) for batch in datamodule.splits["test"][0].split(1000)])
    assert torch.equal(probabilities.argmax(1), chosen)


def test_examples_are_the_extremes_of_each_class():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 9 + [1] * 8 + [2] * 3)
    probabilities = torch.rand(20, 4, generator=generator, dtype=torch.float64)
    probabilities /= probabilities.sum(1, keepdim=True)
    upright = torch.arange(20, dtype=torch.uint8).view(20, 1, 1).expand(20, 2, 2)
    classification = Classification(labels, 0.0, torch.zeros(4, 4, dtype=torch.int64), probabilities, 0.0)
    for descending in (True, False):
        examples = choose_examples(classification, upright, descending)
        for label in range(4):
            own = probabilities[labels == label, label].sort(descending=descending).values
            found = examples.index[label][examples.index[label] >= 0]
            assert len(found) == min(6, len(own))
            assert (labels[found] == label).all()
            assert torch.equal(examples.probability[label, : len(found)], own[:6])
            assert torch.equal(examples.taken_for[label, : len(found)], probabilities[found].argmax(1))
            assert torch.equal(examples.images[label, : len(found), 0, 0].long(), found)


def test_numbers_that_do_not_exist_are_null_and_every_figure_is_drawn(digits, tmp_path):
    network = untrained(digits)
    with torch.no_grad():
        network.classification.weight[0, 3] = 0  # no state at all
    evaluation = measured(network, digits)
    labels = evaluation.classification.labels
    # As with so few held-out images that a class has none.
    kept = labels != 5
    confusion = evaluation.classification.confusion.clone()
    confusion[5] = 0
    fewer = Classification(labels[kept], 0.5, confusion, evaluation.classification.probabilities[kept], 0.0)
    images = evaluation.most_probable.images.new_zeros(int(kept.sum()), 8, 8)
    examples = {
        name: choose_examples(fewer, images, name == "most_probable") for name in ("most_probable", "least_probable")
    }
    evaluation = replace(evaluation, classification=fewer, **examples)
    classes = evaluation.as_plain_data()["classes"]
    assert classes[3]["entanglement_entropy"] is None
    assert classes[3]["log_norm"] is None
    assert classes[5]["accuracy"] is None
    json.dumps(evaluation.as_plain_data(), allow_nan=False)
    draw_all(evaluation, tmp_path, ["png", "svg"])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")
    }
    for path in tmp_path.glob("*.png"):
        # Nothing is cut off at the left or right edge.
        assert imread(path)[:, [0, -1], :3].min() == 1, path
    show_evaluation(evaluation, tmp_path)


def test_map_of_pixels_shows_their_entropies_and_none_is_drawn_where_all_are_alike(digits):
    evaluation = measured(untrained(digits), digits)
    panels = FIGURES["pixel_entropies"](evaluation).axes[:10]
    for shown, entropies in zip(panels, evaluation.pixel_entropies, strict=True):
        assert np.allclose(shown.images[0].get_array(), entropies)
    figure = FIGURES["pixel_entropies"](measured(untrained(digits, "full"), digits))
    assert not any(axes.images for axes in figure.axes)
    assert "all pixels of a class have one entropy" in figure.get_suptitle()


def ensemble_of(run, other, *overrides):
    return evaluate(composed("evaluate", f"runs=['{run}','{other}']", "figures=[]", *overrides))


def test_an_ensemble_averages_scores_and_states(run, digits, tmp_path):
    copy = tmp_path / "seed=1"
    shutil.copytree(run, copy)
    last = copy / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    for name, tensor in content["state_dict"].items():
        if name.endswith("weight"):
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    torch.save(content, last)
    evaluation, folder = ensemble_of(run, copy, f"out='{tmp_path / 'both'}'")
    singles = [
        evaluation_of(f"run={one}", f"out={tmp_path / str(number)}")[0] for number, one in enumerate((run, copy))
    ]
    images, labels = digits.splits["test"]
    amplitudes = sum(single.state.amplitude(images) for single in singles) / 2
    assert torch.allclose(NetworkState.load(folder / STATE).amplitude(images), amplitudes, rtol=1e-9, atol=1e-12)
    right = (amplitudes.abs().argmax(1) == labels).double().mean().item()
    assert evaluation.classification.accuracy == pytest.approx(right, abs=1e-6)
    vectors = NetworkState.sum([single.state for single in singles])
    assert torch.equal(evaluation.entanglement.entropy, vectors.entanglement_entropy())
    numbers = json.loads((folder / NUMBERS).read_text())
    assert [Path(path).parents[1] for path in numbers["model"]["ensemble"]] == [run, copy]


def test_the_mirror_image_is_averaged_with_the_image_in_scores_and_states(run, digits, tmp_path):
    single, _ = evaluation_of(f"run={run}", f"out={tmp_path / 'single'}")
    evaluation, folder = evaluate(composed("evaluate", f"run='{run}'", "mirror=true", "figures=[]"))
    assert folder == run / "evaluation-mirror"
    images, _ = digits.splits["test"]
    order = digits.pixel_order
    mirrored = lay_on_chain(lay_on_image(images, order, (8, 8)).flip(2), order)
    amplitudes = (single.state.amplitude(images) + single.state.amplitude(mirrored)) / 2
    state = NetworkState.load(folder / STATE)
    assert torch.allclose(state.amplitude(images), amplitudes, rtol=1e-9, atol=1e-12)
    assert torch.allclose(state.amplitude(mirrored), amplitudes, rtol=1e-9, atol=1e-12)
    expected = amplitudes.square() / amplitudes.square().sum(1, keepdim=True)
    assert torch.allclose(evaluation.classification.probabilities.double(), expected, atol=1e-5)
    assert json.loads((folder / NUMBERS).read_text())["model"]["mirror"] is True
    with pytest.raises(InputError, match="mirror=True averages scores"):
        evaluate(composed("evaluate", f"run='{run}'", f"state='{folder / STATE}'", "mirror=true"))


def test_runs_that_make_no_ensemble(run, tmp_path):
    with pytest.raises(InputError, match="at least two different runs"):
        ensemble_of(run, run)
    with pytest.raises(InputError, match="give one of run=DIR"):
        ensemble_of(run, run, f"run='{run}'")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    last = other / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["ImageDataModule"]["pixel_order"] = content["ImageDataModule"]["pixel_order"].flip(0)
    torch.save(content, last)
    with pytest.raises(InputError, match="different images or pixel orders"):
        ensemble_of(run, other)
    content["ImageDataModule"] |= {
        "pixel_order": content["ImageDataModule"]["pixel_order"].flip(0),
        "content": "others",
    }
    torch.save(content, last)
    with pytest.raises(InputError, match="different images or pixel orders; they"):
        ensemble_of(run, other)
    content["hyper_parameters"]["data"]["white"] = 0.25
    torch.save(content, last)
    with pytest.raises(InputError, match=r"pixel orders: data\.white=\S+ and 0\.25; they"):
        ensemble_of(run, other)


def test_scores_of_densities_are_not_averaged(tmp_path):
    density = ("data=digits", "data.levels=2", "model=density", "model.d=4", "cost=negative_log_likelihood")
    rest = ("trainer.max_epochs=1", "logger=none", "sweep.name=test", f"run_dir='{tmp_path / 'density'}'")
    train(composed("train", *density, *rest))
    with pytest.raises(InputError, match="Density is a density, whose scores cannot be averaged"):
        evaluate(composed("evaluate", f"run='{tmp_path / 'density'}'", "mirror=true"))


def test_each_split_and_each_checkpoint_keeps_its_own_results(run):
    assert evaluation_of(f"run={run}")[1] == run / "evaluation"
    evaluation, folder = evaluation_of(f"run={run}", "split=val")
    assert folder == run / "evaluation-val"
    assert len(evaluation.classification.labels) == 100
    best = run / "checkpoints" / "best.ckpt"
    assert evaluation_of(f"checkpoint={best}")[1] == run / "checkpoints" / "best-evaluation"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give one of run=DIR, .*given: none"),
        (["run={run}", "checkpoint={run}/checkpoints/last.ckpt"], "give one of run=DIR, .*given: run, checkpoint"),
        (["run={run}/nowhere"], "nowhere: no such folder"),
        (["run={empty}"], "last.ckpt: no such file; .*first epoch"),
        (["checkpoint={run}/checkpoints/other.ckpt"], "checkpoint=.*other.ckpt: no such file"),
        (["checkpoint={run}"], "is a folder; for a run folder give run="),
        (["checkpoint={cut}"], "cut.ckpt"),
        (["checkpoint={foreign}"], "foreign.ckpt is not a checkpoint"),
        (["run={run}", "split=all"], "split=all: choose one of test, val, train"),
        (["checkpoint={without}", "split=val"], "split=val: .*data.val_size=0"),
        (["run={run}", "device=abacus"], "device=abacus"),
        (["run={run}", "mirror=no"], "mirror=no: must be true or false"),
        (["run={run}", "out={file}/inside"], "cannot make the folder .*out=DIR"),
    ],
)
def test_what_cannot_be_evaluated_is_told(run, tmp_path, overrides, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    last = run / "checkpoints" / "last.ckpt"
    (tmp_path / "cut.ckpt").write_bytes(last.read_bytes()[:-1000])
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["hyper_parameters"]["data"]["val_size"] = 0
    torch.save(checkpoint, tmp_path / "without.ckpt")
    places = {"run": run, "empty": tmp_path / "empty", "file": tmp_path / "file"}
    places |= {name: tmp_path / f"{name}.ckpt" for name in ("cut", "foreign", "without")}
    with pytest.raises(InputError, match=message):
        evaluation_of(*(override.format(**places) for override in overrides))


@pytest.mark.parametrize("name", ["evaluation", "evaluation/entropies.png", "evaluation/evaluation.json"])
@pytest.mark.parametrize("split", ["test", "val"])
def test_a_link_out_of_the_run_folder_is_refused_before_anything_is_measured(run, tmp_path, monkeypatch, name, split):
    copy, outside = tmp_path / "copy", tmp_path / "outside"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("evaluation*"))
    outside.mkdir()
    link = copy / name.replace("evaluation", "evaluation" if split == "test" else "evaluation-val", 1)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside if name == "evaluation" else outside / "victim")
    with monkeypatch.context() as patch:
        patch.setattr("qcnn_lightning.evaluation.evaluate.measure", None)
        with pytest.raises(InputError, match="leads out of") as raised:
            evaluation_of(f"run={copy}", f"split={split}", figures="[png]")
    assert str(link) in str(raised.value)
    assert not list(outside.iterdir())
    # A link that the user names is the user's own choice.
    link.unlink()
    (tmp_path / "mine").symlink_to(outside)
    evaluation_of(f"run={copy}", f"split={split}", f"out={tmp_path / 'mine'}")
    assert (outside / NUMBERS).is_file()


@pytest.mark.parametrize(
    ("figures", "message"),
    [("png", "like figures=.png."), ("null", "figures=None: give a list"), ("[gif]", "figures=gif: choose from")],
)
def test_unknown_formats_of_figures_are_told(run, figures, message):
    with pytest.raises(InputError, match=message):
        evaluation_of(f"run={run}", figures=figures)


def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    last = copy / "checkpoints" / "last.ckpt"
    last.with_name("previous.ckpt").write_bytes(last.read_bytes())
    last.write_bytes(last.read_bytes()[:2000])
    assert not zipfile.is_zipfile(last)
    evaluation, _ = evaluation_of(f"run={copy}")
    assert evaluation.checkpoint.name == "previous.ckpt"


def test_data_are_where_the_command_line_says(tmp_path):
    own = dict(composed("train", "data=folder", "sweep.name=t").data)
    own = {key: value for key, value in own.items() if key not in ("root", "cache")}
    nowhere = composed("evaluate").data
    with pytest.raises(InputError, match=r"data.root=DIR"):
        rebuild_data({"data": own}, nowhere, tmp_path)
    missing = composed("evaluate", f"data.root={tmp_path / 'photos'}").data
    with pytest.raises(InputError, match="photos"):
        rebuild_data({"data": own}, missing, tmp_path)
    with pytest.raises(InputError, match="does not name its data"):
        rebuild_data({"data": {"name": "../../secret"}}, nowhere, tmp_path)
    with pytest.raises(InputError, match=r"cannot be used.*colour"):
        rebuild_data({"data": own | {"colour": "red"}}, nowhere, tmp_path)


def test_command_prints_clean_tables_into_a_pipe(run, tmp_path):
    done = evaluate_command(f"run={run}", f"out={tmp_path / 'a=b,c'}", "figures=[pdf]", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout
    for heading in ("EE (nats)", "Rényi-2 (nats)", "effective rank", "log norm", "overlap", "images taken for"):
        assert heading in done.stdout
    written = {path.name for path in (tmp_path / "a=b,c").iterdir()}
    assert written == {NUMBERS, STATE} | {f"{name}.pdf" for name in FIGURES}
    # Nothing else is left behind.
    assert [path.name for path in tmp_path.iterdir()] == ["a=b,c"]


def test_command_ends_in_one_message(tmp_path):
    done = evaluate_command("run=a=b,c", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "a=b,c" in done.stderr
    assert command_line.EXIT_CODES[InputError] == 2


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
