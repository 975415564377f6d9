"""Questions that are answered by measuring: each folder a study, its numbers and its pictures."""
