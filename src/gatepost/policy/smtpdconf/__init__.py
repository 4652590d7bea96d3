"""OpenSMTPD's smtpd.conf, in the grammar of 5.x and of 6.4 and later, read and said again as our settings."""
