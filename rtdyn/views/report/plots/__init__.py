"""Figures of one or several runs: pure functions of `RunTables` frames that return matplotlib Figures."""
