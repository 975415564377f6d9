"""Tests of the library and of the launcher; the tree mirrors theirs."""
