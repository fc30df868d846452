"""How many channels every level of a network has."""

from collections.abc import Sequence

from qcnn_lightning.errors import InputError


def channel_schedule(channels: str | Sequence[int], d: int, num_levels: int) -> tuple[int, ...]:
    """Return the channels d_0 .. d_L that enter levels 0 .. L, without the constant one (section 4.1, eq. 46).

    Args:
        channels: "linear" for d_l = d (l + 1), the paper's; "constant" for d_l = d; or the L + 1 numbers themselves.
        d: channel multiplier.
        num_levels: L.

    Raises:
        InputError: unknown schedule, wrong number of channels, or a number below 1.
    """
    if d < 1:
        raise InputError(f"model.d={d}: the channel multiplier must be at least 1")
    if channels == "linear":
        return tuple(d * (level + 1) for level in range(num_levels + 1))
    if channels == "constant":
        return (d,) * (num_levels + 1)
    if isinstance(channels, str):
        raise InputError(f"model.channels={channels}: choose linear, constant, or a list of {num_levels + 1} numbers")
    if len(channels) != num_levels + 1:
        raise InputError(
            f"model.channels={list(channels)} has {len(channels)} numbers: {2**num_levels} pixels make "
            f"L = {num_levels} levels, which need L + 1 = {num_levels + 1}"
        )
    if min(channels) < 1:
        raise InputError(f"model.channels={list(channels)}: every number of channels must be at least 1")
    return tuple(channels)


def channels_up_to(
    local: int, num_levels: int, most: int, channels: Sequence[int] | None, name: str = "d"
) -> tuple[int, ...]:
    """Return the channels that enter levels 0 .. L: K, then min(K^(2^l), most), or those that are given.

    Args:
        local: K, the local functions with the constant one.
        num_levels: L.
        most: channels; blocks of low levels have fewer states.
        channels: of levels 1 .. L, in place of `most`.
        name: of the setting `most`, for messages.

    Raises:
        InputError: a number below 1, or not L numbers.
    """
    if channels is None:
        if most < 1:
            raise InputError(f"model.{name}={most}: the number of channels must be at least 1")
        # K^(2^l) without the large number.
        return (local, *(min(most, local ** min(2**level, most.bit_length())) for level in range(1, num_levels + 1)))
    if len(channels) != num_levels or min(channels) < 1:
        raise InputError(
            f"model.channels={list(channels)}: expected L = {num_levels} numbers of at least 1, of the channels that "
            f"enter levels 1 to {num_levels}"
        )
    return (local, *channels)
