"""Mail out: find the next hop, speak SMTP or LMTP to it, say what became of each recipient."""
