"""From the command line and configuration files to typed tables."""
