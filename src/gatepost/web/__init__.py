"""The web: what is answered over HTTPS. Pages come from app; this package speaks HTTP/1.1 and finds the page."""
