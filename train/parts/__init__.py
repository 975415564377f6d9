"""What a run is put together from, by name."""
