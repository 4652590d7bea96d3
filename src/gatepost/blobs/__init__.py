"""Bodies of messages: a spool while they arrive, then a row or a file, found by the id of their mail."""
