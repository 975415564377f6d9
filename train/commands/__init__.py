"""What `python -m train` does beside `fit`."""
