"""The nouns that stages hand to each other: no I/O, no clock, no randomness."""
