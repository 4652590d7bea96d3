"""The first hour: `gatepost try` shows a whole server on loopback; see docs/try.md."""
