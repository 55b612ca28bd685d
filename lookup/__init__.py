"""A name in, its zone out."""
