"""Requests: their classes, the catalogue that checks them, local media."""
