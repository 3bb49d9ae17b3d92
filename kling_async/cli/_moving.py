"""A picture that moves on a terminal while a block lasts; elsewhere there is none.

What is on it, its owner knows.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from rich.console import Console, RenderableType
from rich.live import Live


@define(eq=False)
class Moving:
    """Draws a picture again and again.

    Attributes:
        console: Where.
        picture: Gives it as it is now; called from another thread.
        per_second: How often it is drawn.
    """

    console: Console
    picture: Callable[[], RenderableType]
    per_second: int
    _live: Live | None = field(default=None, init=False)

    @property
    def is_on(self) -> bool:
        """Whether it is drawn."""
        return self._live is not None

    def start(self) -> None:
        """Begin to draw, if this is a terminal that can."""
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self.picture,
                refresh_per_second=self.per_second,
            )
            self._live.start()

    def refresh(self) -> None:
        """Draw it at once."""
        if self._live is not None:
            self._live.refresh()

    def stop(self) -> None:
        """Leave it as it is now."""
        if self._live is not None:
            self._live.stop()
