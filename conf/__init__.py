"""Hydra configs, one file per choice."""
