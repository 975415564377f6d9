"""Scripts for developers: they make data that the tests and the launcher read."""
