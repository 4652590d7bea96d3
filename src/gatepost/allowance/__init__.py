"""How much an account may send: one stolen password must not send a million mails before somebody wakes up."""
