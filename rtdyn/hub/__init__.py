"""The Hub: repositories, downloads, data sets, and what goes wrong with them."""
