"""rtdyn inside other people's programs."""
