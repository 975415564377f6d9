"""Tests of mirror mode."""
