"""One training run: from its data to its files."""
