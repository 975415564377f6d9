"""Where a model trains: devices, processes, and what each of them has of its own."""
