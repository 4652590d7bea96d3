"""Who may speak, and how fast: tables, greylist, tarpit, limits, in the process that accepts."""
