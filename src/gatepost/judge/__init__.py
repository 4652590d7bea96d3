"""Is it genuine, is it wanted: SPF, DKIM, the seal on our own mail, and the content's verdict."""
