"""Asyncio-native SDK for Kling video generation through the AI/ML API.

    async with AsyncKling() as kling:
        generation = await kling.generate(
            model="klingai/v2-master-image-to-video",
            image_url="https://example.com/mona.jpg",
            prompt="Mona Lisa puts on glasses with her hands.",
        )
        await kling.download(generation, "mona.mp4")

Everything public is named here, in `kling_async.models`, `kling_async.types`, and in
the other modules without an underscore; the rest may change.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from kling_async._public import *  # noqa: F403 (all that has a public name)
    from kling_async._public import __version__ as __version__

    __all__: list[str]

else:

    def __getattr__(name: str) -> object:
        """Load all public names (PEP 562), so that a bare import costs little."""
        public = vars(importlib.import_module("kling_async._public"))
        # Without names that pytest adds to a plugin's modules, such as `@py_builtins`.
        shown = {it for it in public if it[0].isalpha()} - {"annotations"}
        names = sorted({*shown, "__version__"})
        if name not in {*names, "__all__"} or "__version__" not in public:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        globals().update({it: public[it] for it in names}, __all__=names)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
