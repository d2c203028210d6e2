"""Groups of neurons: how they are chosen, held against nulls and measured."""
