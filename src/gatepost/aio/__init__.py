"""The only drivers of the codecs: octets, timers, TLS, names, processes."""
