"""Training, sweeping and loading from Python: what the command line does, and nothing of the caller's changes."""

import importlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.version import VersionBase
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import qcnn_lightning as ql
from commands import command
from qcnn_lightning.from_python import command_line_of, word_of
from qcnn_lightning.notebook import tree_svg
from qcnn_lightning.states import NetworkState
from qcnn_lightning.training.checkpoints import Checkpoints

SMALL = ("data=digits", "model.d=4", "logger=none", "sweep.name=test")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three epochs that kept the states of every second one; to be read alone."""
    folder = tmp_path_factory.mktemp("trained")
    run = ql.train(*SMALL, max_epochs=3, every_n_epochs=2, run_dir=folder / "a=b, c", quiet=True)
    assert run.folder == folder / "a=b, c"
    return run


def metrics_of(folder):
    return ql.load(folder).metrics.filter(regex="^(?!time)")


def test_importing_the_package_is_quick_and_its_public_names_are_all_there(tmp_path):
    script = "import sys, qcnn_lightning; print([n for n in ('torch', 'hydra', 'pandas') if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert shown.stdout == "[]\n"
    for name in ql.__all__:
        assert getattr(ql, name) is not None
        assert name in dir(ql)
        assert name == "__version__" or name in ql.__doc__


def test_the_command_s_module_does_not_take_the_function_s_place():
    importlib.import_module("qcnn_lightning.train")
    assert not hasattr(ql.train, "command")
    assert callable(ql.train)


def test_training_from_python_leaves_what_the_command_line_leaves(here):
    run = ql.train(*SMALL, max_epochs=2, quiet=True)
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    done = command("qcnn_lightning.train", *SMALL, "trainer.max_epochs=2", folder=elsewhere)
    assert done.returncode == 0, done.stderr
    theirs = elsewhere / run.folder.relative_to(here)
    files = {path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file()}
    assert files == {path.relative_to(run.folder) for path in run.folder.rglob("*") if path.is_file()}
    assert metrics_of(run.folder).equals(metrics_of(theirs))
    for name in (".hydra/config.yaml", ".hydra/overrides.yaml"):
        ours, expected = ((folder / name).read_text() for folder in (run.folder, theirs))
        assert ours.replace(str(here), "") == expected.replace(str(elsewhere), "")
    assert ql.load(theirs).command == run.command
    assert "fused" in (run.folder / "train.log").read_text() or "plain" in (run.folder / "train.log").read_text()


def state_of_the_process():
    root = logging.getLogger()
    names = ("", "qcnn_lightning", "pytorch_lightning", "pytorch_lightning.profilers")
    return {
        "handlers": [list(logging.getLogger(name).handlers) for name in names],
        "levels": [logging.getLogger(name).level for name in names],
        "propagated": root.disabled,
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, VersionBase.instance().getbase()),
        "random numbers": (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()),  # noqa: NPY002
        "threads": torch.get_num_threads(),
        "arguments": list(sys.argv),
    }


@pytest.mark.parametrize("words", [SMALL, (*SMALL, "model.d=0"), (*SMALL, "optimizer.lr=-1"), ("model.dd=3",)])
def test_nothing_of_the_caller_s_changes_even_after_an_error(here, words):
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        before = state_of_the_process()
        try:
            ql.train(*words, max_epochs=1, quiet=True)
        except ql.InputError:
            assert words != SMALL
        after = state_of_the_process()
        # The caller's own Hydra still works.
        assert compose("train", ["model.d=7"]).model.d == 7
    for name, value in before.items():
        assert after[name] == value, name


@contextmanager
def interrupted_after_epoch(epoch, monkeypatch):
    save = Checkpoints.on_train_epoch_end

    def save_and_interrupt(self, trainer, pl_module):
        save(self, trainer, pl_module)
        if trainer.current_epoch == epoch:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", save_and_interrupt)
        yield


def test_the_same_call_resumes_after_ctrl_c_and_then_returns_at_once(here, monkeypatch, trained):
    with interrupted_after_epoch(0, monkeypatch), pytest.raises(KeyboardInterrupt):
        ql.train(*SMALL, max_epochs=3, quiet=True)
    folder = next(here.glob("multirun/test/*"))
    assert ql.load(folder).status == "interrupted"
    run = ql.train(*SMALL, max_epochs=3, quiet=True)
    assert run.folder == folder
    assert run.status == "finished"
    assert metrics_of(folder).equals(metrics_of(trained.folder))
    written = (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert ql.train(*SMALL, max_epochs=3, quiet=True).metrics.equals(run.metrics)
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("words", "settings", "told"),
    [
        ((), {"max_epoch": 3}, r"max_epoch: there is no such setting; the nearest is trainer\.max_epochs"),
        ((), {"precision": "high"}, r"model\.precision and trainer\.precision have this name"),
        ((), {"model": {"dd": 3}}, r"model\.dd=3: there is no such setting; the nearest is model\.d"),
        (("data=digit",), {}, r"did you mean data=digits\?"),
        (("cost=null",), {}, "cost=null: a part cannot be null"),
        (("-m",), {}, "expected an override"),
        ((), {"d": torch.nn.ReLU()}, "a setting is a number, a text, or a list"),
        ((), {"trainer": {"devices": 2}}, r"only qcnn-train or python -m qcnn_lightning\.train"),
        ((), {"hydra.output_subdir": ".hydra"}, "no such setting"),
        (("hydra.output_subdir=x",), {}, r"hydra\.output_subdir=x: must be null"),
        (("data.white=0",), {}, r"data\.white=0"),
        (("data.path=x.npz",), {}, r"no such setting here; data=arrays has it"),
        ((), {"path": "x.npz"}, r"no such setting here; data=arrays has it"),
        (("+model.white=0.5",), {}, r"say data\.white=0\.5"),
    ],
)
def test_what_cannot_be_used_is_one_input_error(here, words, settings, told):
    with pytest.raises(ql.InputError, match=told):
        ql.train("data=digits", "logger=none", "trainer.accelerator=cpu", *words, quiet=True, **settings)


def test_settings_may_be_words_dictionaries_and_short_names():
    meant = ["model.d=6", "model.sharing=sibling", "data=digits"]
    assert command_line_of([*meant], {}) == meant
    assert command_line_of([{"model": {"d": 6, "sharing": "sibling"}, "data": "digits"}], {}) == meant
    assert command_line_of([], {"d": np.int64(6), "sharing": "sibling", "data": "digits"}) == meant
    assert command_line_of([], {"model": {"d": 6, "sharing": "sibling"}, "data": "digits"}) == meant
    assert command_line_of(["data.root=/a=b"], {}) == ["data.root='/a=b'"]
    assert command_line_of([], {"white": 0.75, "seed": 3, "d": [2, 4]}, sweeping=True) == [
        *("data.white=0.75", "seed=3", "model.d=2,4")
    ]


SIMPLE_VALUES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(
    lambda t: "$" not in t
)


@given(st.recursive(SIMPLE_VALUES | TEXTS, lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_hydra_reads_a_value_as_it_was_given(value):
    override = OverridesParser.create().parse_override(f"key={word_of(value)}")
    assert not override.is_sweep_override()
    assert plain(override.value()) == value


def plain(value):
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return getattr(value, "text", value)


def test_network_states_and_figure_of_a_run(trained):
    images = torch.randint(256, (20, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    state = trained.state()
    assert not state.entanglement_entropy().requires_grad
    torch.testing.assert_close(state.amplitude(images), trained.network(images).double(), rtol=1e-3, atol=1e-3)
    kept = trained.state(epoch=1)
    assert torch.allclose(kept.entanglement_entropy().mean(), torch.tensor(trained.metrics.loc[1, "ee/mean"]).double())
    assert kept != state
    assert NetworkState.load_epochs(trained.folder / "states.safetensors")[2] == state == trained.state(epoch=2)
    assert state.class_names == tuple("0123456789")
    assert (state.layout.height, state.layout.width) == (8, 8)
    with pytest.raises(
        ql.InputError, match=r"epoch=0: .*epochs -1, 1, 2 were kept\. .*callbacks\.states\.every_n_epochs"
    ):
        trained.state(epoch=0)
    figure = trained.plot(window=1, first_epoch=0)
    assert isinstance(figure, Figure)
    for axes, cost in zip(figure.axes, ("train", "test"), strict=True):
        expected = trained.metrics.loc[0:, [f"cost/{cost}", "ee/mean"]]
        np.testing.assert_allclose(axes.lines[0].get_xydata(), expected)
    with pytest.raises(ql.InputError, match="first_epoch"):
        trained.plot(first_epoch=50)
    with pytest.raises(ql.InputError, match="window=0: must be a positive whole number"):
        trained.plot(window=0)


def test_a_run_s_entropies_are_numbers_for_numpy(trained):
    for epoch in (None, 1):
        assert trained.state(epoch).entanglement_entropy().numpy().shape == (10,)


def test_a_run_without_weights_or_kept_states_says_so(here, trained):
    (here / "run").mkdir()
    for name in ("metrics.csv", "summary.json"):
        (here / "run" / name).write_bytes((trained.folder / name).read_bytes())
    run = ql.load("run")
    with pytest.raises(ql.InputError, match="has no checkpoint"):
        _ = run.network
    with pytest.raises(ql.InputError, match=r"no states of this epoch; .*callbacks\.states\.every_n_epochs"):
        run.state(epoch=1)
    assert "0.0" in run._repr_html_()
    with pytest.raises(ql.InputError, match="no such folder"):
        ql.load("nothing")


def test_a_sweep_trains_every_combination_in_the_command_line_s_folders(here):
    swept = ql.sweep(*SMALL, "seed=0,1", d=[2, 3], max_epochs=1, quiet=True)
    names = [f"data=digits,logger=none,model.d={d},seed={seed},trainer.max_epochs=1" for d in (2, 3) for seed in (0, 1)]
    assert [run.folder.name for run in swept] == names
    assert list(swept.table["status"]) == ["finished", "finished", "failed", "failed"]
    assert list(swept.table["model.d"]) == [2, 2, 3, 3]
    assert swept.table["accuracy/test"].notna().tolist() == [True, True, False, False]
    # Two channels make no pair of cosine and sine with a third.
    assert set(swept.errors) == set(names[2:])
    assert all("even model.d" in error for error in swept.errors.values())
    assert len(swept[:2]) == 2
    again = ql.load_sweep("multirun/test")
    assert {run.folder.name for run in again} == set(names)
    with pytest.raises(ql.InputError, match="holds 4 runs"):
        ql.load("multirun/test")
    words = ("seed=0,1", "model.d=2", "trainer.max_epochs=1")
    done = command("qcnn_lightning.train", "-m", *SMALL, *words, folder=here)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("has finished already") == 2


def test_a_sweep_of_a_module_in_the_current_folder_goes_on_after_an_error_that_nobody_foresaw(here):
    (here / "failing_cost.py").write_text(
        "class Cost:\n"
        "    def __init__(self, fails):\n"
        "        self.fails = fails\n"
        "    def __call__(self, scores, labels):\n"
        "        if self.fails:\n"
        "            raise RuntimeError('out of memory')\n"
        "        return scores.square().sum(-1)\n"
    )
    swept = ql.sweep(*SMALL, "cost._target_=failing_cost.Cost", "+cost.fails=true,false", max_epochs=1, quiet=True)
    assert list(swept.table["status"]) == ["failed", "finished"]
    assert list(swept.errors.values()) == ["RuntimeError: out of memory"]
    assert str(here) not in sys.path


def test_a_sweep_over_no_value_is_refused(here):
    with pytest.raises(ql.InputError, match=r"model\.d=\[\]: a sweep needs at least one value"):
        ql.sweep(*SMALL, d=[])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("seed=0,1", "model.dd=3"), r"model\.dd=3: there is no such setting"),
        (("seed=0,1", "hydra/launcher=joblib"), r"hydra/launcher needs the command line"),
        (("seed=range(0,", "model.d=3"), "no viable alternative at input"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_trained(here, words, told):
    with pytest.raises(ql.InputError, match=told):
        ql.sweep(*SMALL, *words, quiet=True)
    assert not list(here.glob("multirun/test/*/metrics.csv"))


def test_objects_draw_themselves_and_escape_text(here, trained):
    hostile = '<script>alert("x")</script>'
    state = trained.state().described([hostile, *"123456789"], None)
    folder = here / "<b>bold"
    folder.mkdir()
    (folder / "metrics.csv").write_text("epoch,ee/mean\n0,1\n")
    (folder / ".hydra").mkdir()
    (folder / ".hydra/config.yaml").write_text(json.dumps({"data": {"name": hostile}}))
    for drawn in (trained, trained.network, state, ql.load(folder), ql.load_sweep(here)):
        html = drawn._repr_html_()
        assert "<script" not in html
        assert "<b>bold" not in html
        assert "<table" in html
    assert "data:image/png;base64," in trained._repr_html_()
    assert "data:image/png;base64," in state._repr_html_()


def test_print_shows_what_a_network_is(trained):
    shown = str(trained.network)
    for fact in (
        "num_sites=64",
        "d=4",
        "channels=(4, 8, 12",
        "sharing='full'",
        "basis='fourier'",
        "num_parameters=2296",
    ):
        assert fact in shown


@pytest.mark.parametrize(("channels", "leaves"), [([4, 8], 2), ([4, 8, 12, 16], 8), ([2] * 9, 256)])
def test_the_diagram_has_a_node_per_site_and_a_line_per_child_as_far_as_there_is_room(channels, leaves):
    drawn = tree_svg(channels, 10, "sibling")
    levels = len(channels) - 1
    expected = sum(min(64, 2 ** (levels - level)) for level in range(levels + 1))
    assert drawn.count("<circle") == expected
    joined = sum(2 ** (levels - level) for level in range(levels) if 2 ** (levels - level) <= 64)
    assert drawn.count("<line") == joined + 1
    assert f"{leaves} pixels" in drawn
