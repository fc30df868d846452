import json
import shutil

import pytest
from filelock import FileLock

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import folder_while_we_live, replace_atomically
from qcnn_lightning.report.console import show_runs
from qcnn_lightning.runs.run import HYDRA_FILES, Run

ROWS = [{"epoch": epoch, "cost/test": 0.5 - 0.1 * epoch, "time/epoch_s": 1.0} for epoch in range(-1, 3)]
FACTS = {"num_parameters": 700, "seed": 3, "class_names": ["cat", "dog"]}


@pytest.fixture
def folder(tmp_path):
    run = Run(tmp_path / "run")
    run.write_hydra_files(
        dict(zip(HYDRA_FILES, ("model: {d: 4}\nseed: 3\n", "hydra: {}\n", "- seed=3\n"), strict=True))
    )
    run.write(ROWS, "finished", FACTS)
    return run.folder


def read(folder):
    run = Run(folder)
    run.read()
    return run


def test_a_run_that_nobody_altered_has_no_notes_about_it(folder):
    assert read(folder).altered == []
    assert read(folder).num_parameters == 700


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("summary.json", "700", "900"),
        ("summary.json", '"crc32"', '"crc33"'),
        ("metrics.csv", "0.4", "0.9"),
        (".hydra/config.yaml", "d: 4", "d: 6"),
        (".hydra/hydra.yaml", "{}", "{runtime: {}}"),
        (".hydra/overrides.yaml", "seed=3", "seed=8"),
    ],
)
def test_a_file_that_was_altered_is_told_by_readers_and_the_table_of_runs(folder, capsys, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    (told,) = read(folder).altered
    assert name in told
    show_runs([folder])
    shown = capsys.readouterr().out
    assert f"run: {told}" in shown or name in (".hydra/hydra.yaml", ".hydra/overrides.yaml")
    assert "900" not in shown


def test_the_summary_of_another_run_is_told(folder, tmp_path):
    other = Run(tmp_path / "other")
    other.write_hydra_files(dict.fromkeys(HYDRA_FILES, "seed: 4\n"))
    other.write(ROWS, "finished", FACTS | {"seed": 4})
    shutil.copy(tmp_path / "other" / "summary.json", folder / "summary.json")
    assert any(".hydra/config.yaml was altered" in told for told in read(folder).altered)


def test_rows_that_follow_those_of_a_finished_run_are_told(folder):
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,0.1,1.0\n")
    assert any("metrics.csv was altered" in told for told in read(folder).altered)


def test_one_row_more_than_the_summary_knows_is_that_of_a_killed_process(folder):
    run = Run(folder)
    run.write(ROWS[:-1], "interrupted", FACTS)
    before = (folder / "summary.json").read_text()
    run.write(ROWS, "interrupted", FACTS)
    (folder / "summary.json").write_text(before)
    assert read(folder).altered == []
    assert read(folder).last_epoch == 2


def test_a_run_from_before_there_were_checksums_is_read_as_it_is(folder):
    summary = json.loads((folder / "summary.json").read_text())
    older = {name: value for name, value in summary.items() if name not in ("metrics", "files", "crc32")}
    (folder / "summary.json").write_text(json.dumps(older | {"num_parameters": 900}))
    assert read(folder).altered == []
    assert read(folder).num_parameters == 900


def test_a_folder_that_was_deleted_while_it_was_held_is_not_made_again(folder):
    run = Run(folder)
    with run.held():
        run.write(ROWS, "interrupted", FACTS)
        shutil.rmtree(folder)
        for write in (lambda: run.write(ROWS, "finished", FACTS), run.lock.check):
            with pytest.raises(InputError, match="was deleted while it was trained in"):
                write()
        run.write_traceback(RuntimeError("of something else"))
    assert not folder.exists()


def test_a_folder_that_another_took_the_place_of_is_theirs(folder):
    run = Run(folder)
    with run.held():
        shutil.rmtree(folder)
        with Run(folder).held(), pytest.raises(InputError, match="was deleted"):
            run.write(ROWS, "finished", FACTS)
    assert not (folder / "summary.json").exists()


def test_folders_of_killed_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    (tmp_path / ".jobs-killed").mkdir()
    (tmp_path / ".jobs-killed" / "0.json").write_text("{}")
    (tmp_path / ".jobs-living").mkdir()
    with FileLock(tmp_path / ".jobs-living" / ".lock"), folder_while_we_live(tmp_path, ".jobs-") as ours:
        assert {path.name for path in tmp_path.iterdir()} == {".jobs-living", ours.name}
    assert not ours.exists()


def test_text_of_any_kind_can_be_written(tmp_path):
    replace_atomically(tmp_path / "a", "größe \udcf6\ud83d")
    replace_atomically(tmp_path / "b", "größe " + b"\xf6".decode(errors="surrogateescape"))
    assert (tmp_path / "a").read_bytes() == "größe ".encode() + rb"\udcf6\ud83d"
    assert (tmp_path / "b").read_bytes() == "größe ".encode() + b"\xf6"
