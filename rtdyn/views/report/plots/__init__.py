"""Figures of one or several runs: pure functions of `Shown` frames that return matplotlib Figures."""
