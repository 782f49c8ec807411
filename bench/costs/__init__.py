"""Hours before they are spent."""
