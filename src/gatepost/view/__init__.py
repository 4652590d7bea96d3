"""The reader's side: IMAP and POP3 over the store."""
