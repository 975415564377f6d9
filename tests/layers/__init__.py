"""Tests of the layers, and the table of layer kinds that other tests share."""
