from pathlib import Path

import pytest
import qcnn_lightning.conf
from conftest import command
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers

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
