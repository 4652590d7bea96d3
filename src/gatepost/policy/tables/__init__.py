"""What tables hold and where they get it from."""
