"""What a model is measured on: text, windows, token counts, classes, positions."""
