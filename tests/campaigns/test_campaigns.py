"""Short versions of the campaigns, which `python -m tests.campaigns.damage` and `.kills` run at length."""

import pytest
import torch

from tests.campaigns import damage, kills


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield damage.Campaign(tmp_path_factory.mktemp("damage"), seed=0)
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 60, 20))
def test_damage_ends_in_recovery_or_one_message(campaign, first):
    cases = [campaign.case(number) for number in range(first, first + 20)]
    assert [case for case in cases if case.violations] == []
    assert any("told" in case.outcomes.values() for case in cases)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kills.KINDS)
def test_killed_training_ends_with_the_same_digits_and_leaves_nothing(kind, tmp_path):
    tallies = kills.campaign(
        [kind], kills=3, seed=0, epochs=12, folder=tmp_path, kills_a_round=3, patient=kind != "joblib sweep"
    )
    assert tallies[kind].violations == []
    assert tallies[kind].kills >= 3
