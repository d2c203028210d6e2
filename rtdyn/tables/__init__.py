"""Results as rows; nothing is computed here."""
