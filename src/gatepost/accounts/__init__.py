"""Domains, accounts, aliases, passwords and quotas: who is here, and is it really them."""
