"""Ways to run the steps of a sweep: one after another here; clusters are others of the same form."""
