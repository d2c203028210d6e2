"""Suites of checkpoints: the listed ones and folders."""
