"""For developers: scripts that make data for the tests and the launcher, hooks of the site."""
