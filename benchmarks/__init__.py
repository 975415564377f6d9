"""Scripts whose figures docs/measured.md and other pages quote."""
