"""OpenBSD's pf.conf as the gate's policy: read (`lex`, `parse`), decide by it (`rules`), tell of it (`report`)."""
