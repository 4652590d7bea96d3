"""Whether the world can reach us and believes us: the records that a domain wants, and what is wrong with them."""
