"""One checkpoint analysed alike everywhere."""
