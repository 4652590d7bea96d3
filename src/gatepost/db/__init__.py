"""See docs/layers.md."""
