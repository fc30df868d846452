import pandas as pd
import pytest
from synthetic import curves, write_run

from qcnn_lightning.errors import InputError
from qcnn_lightning.report.groups import read_collection
from reproduction.archives import read_archive, unpack
from reproduction.keep_runs import keep_study


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
