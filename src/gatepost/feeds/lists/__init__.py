"""Lists of addresses from files, the web and programs: what spamd-setup(8) does for spamd(8)."""
