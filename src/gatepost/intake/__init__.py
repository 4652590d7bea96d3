"""Mail comes in: SMTP from strangers (mx), from our users (submission), and LMTP; each ends in one durable step."""
