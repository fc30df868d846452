"""Regions: sets of pixels, and the aligned blocks of the tree that they are made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from qcnn_lightning.errors import InputError

Region: TypeAlias = Any
"""A pixel, or pixels: an integer, a range, an array, or a list of these. `sites_of` checks it."""


@dataclass(frozen=True, order=True)
class Block:
    """The aligned block of 2^level sites from position 2^level on: everything below one node of the tree."""

    level: int
    position: int

    @property
    def sites(self) -> range:
        """Its sites."""
        return range(self.position << self.level, (self.position + 1) << self.level)

    def holds(self, other: "Block") -> bool:
        """Return whether another block is this one or a part of it."""
        return other.level <= self.level and other.position >> (self.level - other.level) == self.position

    @property
    def halves(self) -> tuple["Block", "Block"]:
        """The left and the right half."""
        return Block(self.level - 1, 2 * self.position), Block(self.level - 1, 2 * self.position + 1)


def sites_of(region: Region, num_sites: int) -> tuple[int, ...]:
    """Return the different sites of a region, ascending.

    Raises:
        InputError: it holds no pixel, one twice, or one that does not exist.
    """
    sites = list(_flattened(region))
    if not sites:
        raise InputError("the region is empty: it needs at least one pixel")
    for site in sites:
        if not 0 <= site < num_sites:
            raise InputError(f"region={region}: there is no pixel {site}; expected 0 to {num_sites - 1}")
    if len(set(sites)) != len(sites):
        twice = next(site for site in sites if sites.count(site) > 1)
        raise InputError(f"region={region}: pixel {twice} comes twice; expected different pixels")
    return tuple(sorted(sites))


def _flattened(region: Any) -> Iterable[int]:
    if isinstance(region, Tensor | np.ndarray):
        region = region.tolist()
    if isinstance(region, bool) or not isinstance(region, int | np.integer | Iterable) or isinstance(region, str):
        raise InputError(f"region={region!r}: expected a pixel's number, or a list of them")
    if isinstance(region, Iterable):
        for part in region:
            yield from _flattened(part)
    else:
        yield int(region)


def aligned_blocks(sites: Iterable[int]) -> list[Block]:
    """Return the fewest aligned blocks that make up these sites, left to right."""
    level, positions, blocks = 0, set(sites), []
    while positions:
        pairs = {position // 2 for position in positions if position ^ 1 in positions}
        blocks += [Block(level, position) for position in positions if position // 2 not in pairs]
        level, positions = level + 1, pairs
    return sorted(blocks, key=lambda block: block.sites.start)


def blocks_as_given(blocks: Any, num_sites: int) -> list[Block]:
    """Return pixels and ranges as blocks, in the order given.

    Args:
        blocks: a pixel, or a sequence of pixels (integers) and aligned blocks (ranges).
        num_sites: N.

    Raises:
        InputError: a range is no aligned block, or a pixel does not exist or comes twice.
    """
    given: Sequence[Any] = [blocks] if isinstance(blocks, int | np.integer) else list(blocks)
    sites_of(given, num_sites)
    return [_aligned(part) if isinstance(part, range) else Block(0, int(part)) for part in given]


def _aligned(sites: range) -> Block:
    blocks = aligned_blocks(sites)
    if len(blocks) != 1:
        raise InputError(
            f"{sites} is no aligned block: expected range(k 2^l, (k + 1) 2^l), all pixels below one node of the tree; "
            f"its blocks are {', '.join(str(block.sites) for block in blocks)}"
        )
    return blocks[0]
