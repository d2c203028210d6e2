"""Attention routing: where rare and common targets attend."""
