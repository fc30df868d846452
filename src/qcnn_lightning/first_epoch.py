"""The first epoch of comparisons: figure 3 and all correlations of entropy with cost leave out a run's beginning."""

LATEST_FIRST_EPOCH = 30
"""The paper's, for 90 epochs."""


def first_epoch_of(num_epochs: int, chosen: int | None = None) -> int:
    """Return the first epoch of a run's comparisons: min(30, num_epochs // 3), unless another is chosen.

    Args:
        num_epochs: length of the whole run, also while it trains.
        chosen: another first epoch, or None.
    """
    return min(LATEST_FIRST_EPOCH, num_epochs // 3) if chosen is None else chosen
