"""The greylists of several mail servers, kept alike: OpenBSD spamd's sync, and our own."""
