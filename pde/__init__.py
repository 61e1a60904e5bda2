"""PDE systems."""
