"""Run folders: what training leaves behind, one object each, and many of them. Imports nothing from training."""
