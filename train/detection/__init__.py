"""Objects in images: which anchor stands for which, what outputs mean, how good they are."""
