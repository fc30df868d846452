import functools
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from synthetic import curves, write_run

from commands import train_command
from composing import evaluation_of
from qcnn_lightning import (
    NetworkState,
    command_line,  # noqa: F401  the configs use its resolvers
)
from qcnn_lightning.errors import InputError
from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.runs import LAST
from qcnn_lightning.runs.checkpoint import read_checkpoint
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.settings import PATHS_IN_A_CONFIG, without_paths
from qcnn_lightning.states.contraction import TensorNetworkState
from reproduction.archives import SUFFIX, read_archive, study_of, unpack
from reproduction.keep_runs import keep_study
from reproduction.restore_runs import restore_study

FOLDER = Path(__file__).parents[2] / "reproduction"
CONF = FOLDER / "conf"
STUDIES = sorted(path.stem for path in CONF.glob("sweep/*.yaml"))
STORED = sorted((FOLDER / "metrics").glob(f"*{SUFFIX}"))


def train(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m qcnn_lightning.train` in a folder, with the studies' configs."""
    return train_command("--config-dir", str(CONF), *arguments, folder=folder)


@functools.cache
def jobs(study: str) -> list[DictConfig]:
    """Return the configuration of every job, as Hydra's sweeper makes them; to be read alone."""
    place = f"hydra.searchpath=[file://{CONF}]"
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        config = compose("train", [place, f"sweep={study}"], return_hydra_config=True)
        given = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]
        overrides = OverridesParser.create().parse_overrides([*given, f"sweep={study}"])
        (batch,) = BasicSweeper.split_arguments(overrides, None)
        return [compose("train", [place, *job], return_hydra_config=True) for job in batch]


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_every_job_of_a_study_can_be_composed_into_a_folder_of_its_own(study):
    batch = jobs(study)
    for config in batch:
        assert config.sweep.name == study
        assert config.trainer.max_epochs > 0
    folders = {config.hydra.sweep.subdir for config in batch}
    assert len(folders) == len(batch)
    assert not any("sweep=" in folder or "sweep.name" in folder for folder in folders)


def test_every_choice_of_the_ablation_changes_the_network_or_its_training():
    batch = [job for job in jobs("ablation") if (job.seed, job.data.name) == (0, "mnist")]
    changed = ("model", "data", "scheduler", "evaluation_statistics", "average_decay")
    settings = {str([job[name] for name in changed]) for job in batch}
    assert len(settings) == len(batch) == len(list(CONF.glob("ablation/*.yaml")))


@pytest.mark.slow
def test_the_same_command_resumes_a_study_and_the_command_line_can_shrink_it(tmp_path):
    smaller = ("data=digits", "model.d=2", "seed=0,1", "trainer.max_epochs=1", "data.size=8")
    arguments = ("-m", "sweep=reproduction", *smaller, "model.kernel=plain", "logger=none")
    first = train(*arguments, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    again = train(*arguments, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == 2
    assert len(list((tmp_path / "multirun" / "reproduction").glob("*/summary.json"))) == 2


@pytest.mark.slow
def test_runs_that_are_stored_are_not_trained_again(tmp_path):
    settings = ("data=digits", "model.d=2", "trainer.max_epochs=2", "model.kernel=plain", "logger=csv")
    sweep = ("-m", *settings, "seed=0,1", "sweep.name=study")
    multirun, archive = tmp_path / "multirun", tmp_path / "study.tar.xz"
    assert train(*sweep, folder=tmp_path).returncode == 0
    keep_study(multirun / "study", tmp_path)
    stored = archive.read_bytes()
    shutil.rmtree(multirun)

    assert restore_study(archive, multirun) == (2, 0)
    again = train(*sweep, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == 2
    # what is stored of them is the same, to the byte
    archive.unlink()
    keep_study(multirun / "study", tmp_path)
    assert archive.read_bytes() == stored
    # and they are restored but once
    assert restore_study(archive, multirun) == (0, 2)
    assert "--config-dir reproduction/conf" in read_collection(multirun).runs[0].command

    (job, _) = sorted((multirun / "study").glob("*/"))
    changed = train(*settings, "seed=0", "optimizer.lr=0.02", f"hydra.run.dir='{job}'", folder=tmp_path)
    assert changed.returncode == 2
    assert "optimizer.lr: 0.01 -> 0.02" in changed.stderr
    with pytest.raises(InputError, match="no weights"):
        network_of(read_checkpoint(job / LAST))


@pytest.mark.parametrize("archive", STORED, ids=study_of)
def test_every_stored_run_can_be_read_and_has_finished(archive, tmp_path):
    collection = read_collection(unpack(archive, tmp_path))
    assert collection.left_out == ()
    for run in collection.runs:
        assert run.status == "finished"
        assert run.last_epoch + 1 == run.planned_epochs


@pytest.mark.parametrize("archive", [path for path in STORED if study_of(path) in STUDIES], ids=study_of)
def test_the_runs_that_are_stored_of_a_study_are_its_jobs(archive, tmp_path):
    planned = {(job.data.name, job.model.d, job.seed, job.data.flatten) for job in jobs(study_of(archive))}
    stored = {(run.data, run.d, run.seed, run.flatten) for run in read_collection(unpack(archive, tmp_path)).runs}
    assert stored <= planned


def test_finished_runs_are_kept_to_the_last_digit_and_the_same_again(tmp_path):
    study, out = tmp_path / "multirun" / "study", tmp_path / "metrics"
    write_run(study / "data=mnist,seed=0", seed=0, epochs=3)
    write_run(study / "data=mnist,seed=1", seed=1, epochs=3)
    write_run(study / "data=mnist,seed=2", seed=2, epochs=3, status="interrupted")
    (study / "data=mnist,seed=0" / "checkpoints").mkdir()
    (study / "data=mnist,seed=0" / "checkpoints" / "last.ckpt").write_text("large")
    assert keep_study(study, out) == (2, 1)
    (archive,) = out.iterdir()
    content = archive.read_bytes()
    assert not any("ckpt" in name for name in read_archive(archive))
    originals, copies = (read_collection(folder).runs for folder in (study, unpack(archive, tmp_path / "unpacked")))
    assert [run.seed for run in copies] == [0, 1]
    for original, copy in zip(originals, copies, strict=False):
        pd.testing.assert_frame_equal(copy.metrics, original.metrics, rtol=0, atol=0)
        assert (copy.settings, copy.overrides, copy.summary) == (
            original.settings,
            original.overrides,
            original.summary,
        )
    keep_study(study, out)
    assert archive.read_bytes() == content
    archive.unlink()
    keep_study(study, out)
    assert archive.read_bytes() == content


def test_runs_that_are_stored_already_stay_unless_they_are_there_anew(tmp_path):
    here, elsewhere = tmp_path / "here" / "study", tmp_path / "elsewhere" / "study"
    for seed in (0, 1):
        write_run(here / f"{seed}", seed=seed, epochs=3)
    keep_study(here, tmp_path)
    table = curves(epochs=3)
    table["accuracy/test"] = 0.5
    write_run(elsewhere / "1", seed=1, table=table)
    keep_study(elsewhere, tmp_path)
    kept = read_collection(unpack(tmp_path / "study.tar.xz", tmp_path / "unpacked")).runs
    assert [run.seed for run in kept] == [0, 1]
    assert kept[0].column("accuracy/test").iloc[-1] != 0.5
    assert kept[1].column("accuracy/test").iloc[-1] == 0.5


def test_a_damaged_archive_is_told_and_stays(tmp_path):
    write_run(tmp_path / "study" / "run", epochs=3)
    keep_study(tmp_path / "study", tmp_path)
    archive = tmp_path / "study.tar.xz"
    content = archive.read_bytes()
    damaged = content[: len(content) // 2]
    archive.write_bytes(damaged)
    with pytest.raises(InputError, match=r"study\.tar\.xz cannot be read"):
        keep_study(tmp_path / "study", tmp_path)
    assert archive.read_bytes() == damaged


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


@pytest.mark.slow
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
