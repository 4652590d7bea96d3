"""BGP-4 as a speaker needs it that only listens: RFC 4271, 4760, 5492, 6793, 7606, and what routes carry."""
