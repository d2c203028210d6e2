"""rtdyn: rare-token specialisation of a language model's final layer, through its training."""

__version__ = "0.1.0"
