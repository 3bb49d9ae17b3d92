"""When to poll, and who shares a poll."""
