import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import qcnn_lightning.conf
from conftest import command
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.errors import InputError
from qcnn_lightning.run_folder import LAST, load_network, read_yaml
from qcnn_lightning.training.resume import differences

PROJECT = Path(__file__).parents[2]

STUDIES = sorted(path.stem for path in Path(qcnn_lightning.conf.__file__).parent.glob("sweep/*.yaml"))


def jobs(study: str) -> list[list[str]]:
    """Return the overrides of every job, as Hydra's sweeper makes them."""
    config = compose("train", [f"sweep={study}"], return_hydra_config=True)
    given = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]
    overrides = OverridesParser.create().parse_overrides([*given, f"sweep={study}"])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return batch


@pytest.mark.parametrize("study", STUDIES)
def test_every_job_of_a_study_can_be_composed_into_a_folder_of_its_own(study):
    folders = set()
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        batch = jobs(study)
        for job in batch:
            config = compose("train", job, return_hydra_config=True)
            assert config.sweep.name == study
            assert config.trainer.max_epochs > 0
            folders.add(config.hydra.sweep.subdir)
    assert len(folders) == len(batch)
    assert not any("sweep" in folder for folder in folders)


def test_the_same_command_resumes_a_study_and_the_command_line_can_shrink_it(tmp_path):
    arguments = (
        "-m",
        "sweep=reproduction",
        "data=digits",
        "model.d=2",
        "seed=0,1",
        "trainer.max_epochs=1",
        "data.size=8",
    )
    arguments = (*arguments, "model.kernel=plain", "logger=none")
    first = command(*arguments, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    again = command(*arguments, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == 2
    assert len(list((tmp_path / "multirun" / "reproduction").glob("*/summary.json"))) == 2


def script(name: str, *arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts" / name, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_runs_whose_metrics_were_kept_are_not_trained_again(tmp_path):
    settings = ("data=digits", "model.d=2", "trainer.max_epochs=2", "model.kernel=plain", "logger=csv")
    sweep = ("-m", *settings, "seed=0,1", "sweep.name=study")
    assert command(*sweep, folder=tmp_path).returncode == 0
    script("keep_runs.py", "multirun/study", "docs/runs", folder=tmp_path)
    kept = {path: path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "multirun")

    restore = ("restore_runs.py", "docs/runs/study", "docs/runs/to_come", "multirun")
    assert "2 kept runs restored" in script(*restore, folder=tmp_path)
    again = command(*sweep, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == 2
    # what is kept of them is the same, to the byte
    script("keep_runs.py", "multirun/study", "docs/runs", folder=tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file()} == kept
    # and they are restored but once
    assert "0 kept runs restored" in script(*restore, folder=tmp_path)

    (job, _) = sorted((tmp_path / "multirun/study").glob("*/"))
    changed = command(*settings, "seed=0", "optimizer.lr=0.02", f"hydra.run.dir='{job}'", folder=tmp_path)
    assert changed.returncode == 2
    assert "optimizer.lr: 0.01 -> 0.02" in changed.stderr
    with pytest.raises(InputError, match="no weights"):
        load_network(job / LAST)


KEPT = [folder.name for folder in sorted((PROJECT / "docs/runs").iterdir()) if folder.name in STUDIES]


@pytest.mark.parametrize("study", KEPT)
def test_kept_runs_have_the_settings_of_their_study(study):
    # Otherwise `make studies` would refuse them, or train them again in other folders.
    kept = {folder.name for folder in (PROJECT / "docs/runs" / study).iterdir()}
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        for job in jobs(study):
            config = compose("train", job, return_hydra_config=True)
            folder = config.hydra.sweep.subdir
            if folder in kept:
                kept.remove(folder)
                now = OmegaConf.to_container(config, resolve=False)
                del now["hydra"]
                then = read_yaml(PROJECT / "docs/runs" / study / folder / ".hydra/config.yaml")
                assert differences(then, now) == {}
    assert not kept
