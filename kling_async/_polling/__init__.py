"""When to ask again, and who shares the answer."""
