import os
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from qcnn_lightning import QCNN
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.evaluate import last_checkpoint
from qcnn_lightning.runs.checkpoint import DamagedFileError, read_checkpoint
from qcnn_lightning.runs.rebuild import cost_of, network_of
from qcnn_lightning.runs.run import Run
from qcnn_lightning.runs.settings import without_paths

# As runs of the first version name it.
MODEL = {"_target_": "qcnn_lightning.network.QCNN", "d": 4, "sharing": "sibling"}


class Exploit:
    """Creates a file when it is unpickled."""

    def __init__(self, created: Path):
        self.created = created

    def __reduce__(self):
        return os.mkdir, (str(self.created),)


def write_run(folder: Path, config=None, **entries) -> Path:
    """Write a run folder with the checkpoint of a small network."""
    (folder / "checkpoints").mkdir(parents=True)
    network = QCNN(16, 3, d=4, sharing="sibling")
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    config = config or {"model": MODEL, "data": {"name": "digits", "root": "/elsewhere"}, "run_dir": "/elsewhere"}
    torch.save({"state_dict": state, "hyper_parameters": config, **entries}, folder / "checkpoints" / "last.ckpt")
    return folder


def test_the_network_is_rebuilt_from_the_checkpoint_alone(tmp_path):
    checkpoint = Run(write_run(tmp_path)).checkpoint()
    network = network_of(checkpoint)
    stored = torch.load(checkpoint.path, weights_only=True)["state_dict"]
    assert all(torch.equal(stored[f"network.{name}"], value) for name, value in network.state_dict().items())
    assert not network.training


def test_a_setting_that_was_renamed_is_handed_on_by_its_name_now(tmp_path):
    config = {"model": MODEL, "data": {"name": "digits", "batches_at_a_time": 5}}
    checkpoint = Run(write_run(tmp_path, config)).checkpoint()
    assert without_paths(checkpoint.config)["data"] == {"name": "digits", "batches_per_item": 5}


def test_no_path_of_the_configuration_is_handed_on(tmp_path):
    config = Run(write_run(tmp_path)).checkpoint().config
    assert "elsewhere" in str(config)
    assert "elsewhere" not in str(without_paths(config))


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "torch.hub.load", "subprocess.run", ["os.system"]])
@pytest.mark.parametrize("part", ["callbacks", "model", "cost", "basis"])
def test_a_class_that_a_configuration_names_is_text_until_the_user_names_it(tmp_path, target, part):
    hostile = {"_target_": target, "command": f"touch {tmp_path}/executed"}
    config = {"model": dict(MODEL), "callbacks": [{"nested": hostile}]}
    if part in ("model", "cost"):
        config[part] = hostile
    elif part == "basis":
        config["model"]["basis"] = str(target)
    write_run(tmp_path, config)
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(config, tmp_path / ".hydra" / "config.yaml")
    checkpoint = Run(tmp_path).checkpoint()
    if part == "callbacks":
        network_of(checkpoint)
    else:
        named = re.escape(str(target))
        with pytest.raises(
            InputError, match=rf"trained with {named}, somebody's own code, which was not executed.*own="
        ):
            (cost_of if part == "cost" else network_of)(checkpoint)
    assert not (tmp_path / "executed").exists()


def test_a_pickled_object_is_refused_and_not_executed(tmp_path):
    created = tmp_path / "executed"
    write_run(tmp_path / "run", callbacks=Exploit(created))
    with pytest.raises(InputError, match=r"last\.ckpt holds pickled objects .*mkdir"):
        Run(tmp_path / "run").checkpoint()
    assert not created.exists()


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "checkpoints/previous.ckpt"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    write_run(tmp_path / "run")
    path = tmp_path / "run" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    (tmp_path / "outside").write_text("{}")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="leads out of"):
        Run(tmp_path / "run").checkpoint()


def test_damage_is_told_from_any_other_content(tmp_path):
    path = write_run(tmp_path) / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    middle = content.find(b"PK\x01\x02") // 2
    for damaged in (content[: len(content) // 2], b"", content[:middle] + b"\xff" * 64 + content[middle + 64 :]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"last\.ckpt"):
            read_checkpoint(path)


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    last = write_run(tmp_path) / "checkpoints" / "last.ckpt"
    previous = last.with_name("previous.ckpt")
    previous.write_bytes(last.read_bytes())
    last.write_bytes(b"PK")
    assert Run(tmp_path).checkpoint().path == previous
    assert str(last) in caplog.text
    previous.write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"last\.ckpt.*previous\.ckpt"):
        Run(tmp_path).checkpoint()


def test_weights_of_another_network_are_told(tmp_path):
    with pytest.raises(InputError, match=r"last\.ckpt does not hold the network"):
        network_of(Run(write_run(tmp_path, {"model": MODEL | {"d": 6}})).checkpoint())


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_what_is_no_run_folder_is_told(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="run folder"):
        last_checkpoint(tmp_path / folder)


@pytest.mark.parametrize("settings", [{"d": 20000}, {"d": 40}])
def test_a_checkpoint_that_describes_more_weights_than_it_holds_takes_no_memory(tmp_path, settings):
    resource = pytest.importorskip("resource")
    checkpoint = Run(write_run(tmp_path, {"model": MODEL | settings})).checkpoint()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"last\.ckpt does not hold the network that its settings describe"):
        network_of(checkpoint)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
