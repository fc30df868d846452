"""Run folders: what training leaves behind, one object each, and many of them. Imports nothing from training."""

from pathlib import Path

LAST = Path("checkpoints", "last.ckpt")
PREVIOUS = Path("checkpoints", "previous.ckpt")
"""The checkpoint of the epoch before the last, should the last be damaged."""
BEST = Path("checkpoints", "best.ckpt")
