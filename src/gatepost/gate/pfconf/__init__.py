"""OpenBSD's pf.conf as the gate's policy: read (`lex`, `parse`), decide by it (`rules`), say what of it counts (`report`)."""
