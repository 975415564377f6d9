"""What a chip must provide for the weight mirror: docs/noisy_hardware.md is its page."""
