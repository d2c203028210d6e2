"""What a sweep costs before it starts."""
