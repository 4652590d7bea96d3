"""spamd's side of SMTP: a dialogue that never takes a mail."""
