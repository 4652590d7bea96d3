"""Mailboxes: names, messages as rows rendered once at delivery, flags, and what changed since when."""
