"""A run may start from the weights of another."""

import pandas as pd
import pytest
from small_runs import checkpoint_of, compose_small

from qcnn_lightning.command_line import with_quoted_paths
from qcnn_lightning.errors import InputError
from qcnn_lightning.training.run import train

DENSITY = ("model=density", "cost=negative_log_likelihood", "data.levels=2", "model.d=6")


@pytest.mark.parametrize("model", [(), DENSITY], ids=["qcnn", "density"])
def test_a_run_starts_where_another_ended(tmp_path, model):
    train(compose_small(tmp_path / "first", *model), quiet=True)
    other = ("seed=7", "trainer.max_epochs=1", f"start_from={tmp_path / 'first'}")
    train(compose_small(tmp_path / "second", *model, *other), quiet=True)
    first, second = (pd.read_csv(tmp_path / name / "metrics.csv").set_index("epoch") for name in ("first", "second"))
    for column in ("cost/test", "ee/mean", "accuracy/test"):
        assert second[column][-1] == pytest.approx(first[column].iloc[-1], rel=1e-6)
    assert second["cost/test"][0] != second["cost/test"][-1]


def test_what_the_other_run_was_normalised_by_is_not_taken_over(tmp_path):
    train(compose_small(tmp_path / "first"), quiet=True)
    other = (f"start_from={tmp_path / 'first'}", "evaluation_statistics=running")
    train(compose_small(tmp_path / "second", *other), quiet=True)
    fixed = [value for key, value in checkpoint_of(tmp_path / "second")["state_dict"].items() if "_fixed" in key]
    assert fixed
    assert not any(fixed)


def test_a_job_folder_is_a_start_as_it_is_written(tmp_path):
    folder = tmp_path / "data=digits,model.d=6"
    folder.mkdir()
    given = [f"start_from={folder}", "start_from=a,b", "start_from=null", "model.start=default", "data.flatten=up_down"]
    assert with_quoted_paths(given, ()) == [f"start_from='{folder}'", *given[1:]]


def test_a_start_that_cannot_be_used_is_told(tmp_path):
    with pytest.raises(InputError, match=r"start_from=.*missing: no run folder with a checkpoint"):
        train(compose_small(tmp_path / "second", f"start_from={tmp_path / 'missing'}"), quiet=True)
    train(compose_small(tmp_path / "first", *DENSITY), quiet=True)
    wider = (*DENSITY[:-1], "model.d=8", f"start_from={tmp_path / 'first'}")
    with pytest.raises(
        InputError, match=r"levels\.\d of shape \(.*6.*\), this one \(.*8.*\); give both the same model"
    ):
        train(compose_small(tmp_path / "wider", *wider), quiet=True)
