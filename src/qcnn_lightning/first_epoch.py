"""From which epoch on entropy and cost are compared: figure 3 and all correlations leave a run's beginning out."""

LATEST_FIRST_EPOCH = 30
"""The paper's, which trains for 90 epochs."""


def first_epoch_of(num_epochs: int, chosen: int | None = None) -> int:
    """Return the first epoch of a run's comparisons: 30, or a third of the run where that is less.

    Args:
        num_epochs: length of the whole run, also while it is being trained.
        chosen: another first epoch; None for none.
    """
    return min(LATEST_FIRST_EPOCH, num_epochs // 3) if chosen is None else chosen
