"""What people read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcnn_lightning.labels import caption, setting, shortened, value_name


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("data.name", "fmnist", "Fashion-MNIST"),
        ("model.d", 18, "d = 18"),
        ("data.flatten", "left_right", "left/right"),
        ("data.augment.shift", 1, "shifted by 1 pixel"),
        ("data.augment.shift", 2, "shifted by 2 pixels"),
        ("data.augment.shift", 0, "not shifted"),
        ("model.sharing", "sibling", "sibling sharing"),
        ("model.sharing", "none", "no sharing"),
        ("optimizer._target_", "torch.optim.AdamW", "optimizer = AdamW"),
        ("scheduler.step_size", None, "step size = none"),
        ("seed", 1, "seed 1"),
    ],
)
def test_a_setting_reads_as_people_say_it(key, value, read):
    assert setting(key, value) == read


def test_an_unknown_value_of_a_known_setting_is_named_with_its_setting():
    assert setting("data.augment.contrast", "much") == "contrast = much"
    assert value_name("data.flatten", "mine.my_order") == "mine.my_order"


@given(st.text(min_size=1), st.integers(4, 30))
def test_a_shortened_name_fits_and_keeps_both_ends(name, longest):
    short = shortened(name, longest)
    assert len(short) <= longest
    if len(name) <= longest:
        assert short == name
    else:
        assert "…" in short
        assert short[0] in (name[0], "…")


def test_names_that_differ_at_their_ends_stay_different():
    names = [f"a_very_long_prefix_of_all_classes_{number}" for number in range(10)]
    assert len({shortened(name, 18) for name in names}) == 10


def test_a_caption_leaves_empty_parts_out():
    assert caption("MNIST", "", "d = 18") == "MNIST, d = 18"
