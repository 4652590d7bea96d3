"""What a person was told of and must mend: each is told once, and again only after it was over in between."""
