"""The event loop and the disk: tasks, the limiter, whole files."""
