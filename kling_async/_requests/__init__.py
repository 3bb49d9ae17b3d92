"""What is asked for: request classes, the catalogue that checks them, local media."""
