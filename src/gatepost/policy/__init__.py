"""What shall become of a mail: ordered rules, tables, aliases; asked by intake, never acting itself."""
