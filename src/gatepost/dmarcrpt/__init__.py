"""How mail in other domains' names fared here: counted in memory, flushed, and told to those who ask (RFC 9990)."""
