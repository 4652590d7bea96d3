"""How TLS to other domains went: counted in memory, flushed, and told to those who ask (RFC 8460)."""
