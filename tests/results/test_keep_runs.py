import subprocess
import sys
from pathlib import Path

import pandas as pd
from synthetic import write_run

from qcnn_lightning.results.runs import read_collection

SCRIPT = Path(__file__).parents[2] / "scripts" / "keep_runs.py"


def keep(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, "multirun/study", "kept"], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_finished_runs_are_kept_to_the_last_digit_and_the_same_again(tmp_path):
    study = tmp_path / "multirun" / "study"
    write_run(study / "data=mnist,seed=0", seed=0, epochs=3)
    write_run(study / "data=mnist,seed=1", seed=1, epochs=3)
    write_run(study / "data=mnist,seed=2", seed=2, epochs=3, status="interrupted")
    (study / "data=mnist,seed=0" / "checkpoints").mkdir()
    (study / "data=mnist,seed=0" / "checkpoints" / "last.ckpt").write_text("large")
    assert "2 finished runs" in keep(tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.glob("kept/**/*") if path.is_file()}
    assert not any("ckpt" in path.name for path in kept)
    originals, copies = (read_collection(folder).runs for folder in (study, tmp_path / "kept" / "study"))
    assert [run.seed for run in copies] == [0, 1]
    for original, copy in zip(originals, copies, strict=False):
        pd.testing.assert_frame_equal(copy.metrics, original.metrics, rtol=0, atol=0)
        assert (copy.settings, copy.overrides, copy.summary) == (
            original.settings,
            original.overrides,
            original.summary,
        )
    keep(tmp_path)
    assert {path: path.read_bytes() for path in kept} == kept
