"""The compiled inner loops of the analyses."""
