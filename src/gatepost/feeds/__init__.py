"""Feeds: who else tells the gate whom to trust: BGP, lists of addresses, and our other mail servers."""
