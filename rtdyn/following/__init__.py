"""Runs whose steps come while they are analysed: from a folder, from the Hub, from a program."""
