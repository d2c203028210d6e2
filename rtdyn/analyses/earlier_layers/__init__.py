"""What the neurons of layers before the last do to the loss, with an error that is known (METHODS §11)."""
