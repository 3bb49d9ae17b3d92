"""What all tests have in common: an event loop is made only where one is asked for."""

from __future__ import annotations

import asyncio

# Else looptime, looking for a loop before the first test, makes one that nobody closes.
asyncio.set_event_loop(None)
