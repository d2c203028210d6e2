"""Model families and sizes."""
