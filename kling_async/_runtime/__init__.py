"""The event loop: tasks of the client, and the alarm they wait for."""
