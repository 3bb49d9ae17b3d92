"""What all tests have in common: an event loop is made only where one is asked for."""

from __future__ import annotations

import asyncio
import signal

# Else looptime, looking for a loop before the first test, makes one that nobody closes.
asyncio.set_event_loop(None)

# A shell's background jobs ignore SIGINT, and so would the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
