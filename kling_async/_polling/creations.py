"""What one client knows of its creates, so that polls know a generation's age."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field, frozen

from kling_async._requests.catalogue import video_length
from kling_async._runtime.tasks import ClientTasks

# Creations kept; the oldest make room.
KEPT = 100_000


@frozen(eq=False, repr=False)
class CreationInfo:
    """Where a generation comes from.

    Attributes:
        model: The id of its model.
        video_length: The length of its video, in seconds, if it has one to choose.
        tasks: The client's tasks in the event loop whose clock tells `created`.
        created: When its create was sent, on that clock: its answer may have been lost,
            and the generation found much later.
    """

    model: str
    video_length: float | None
    tasks: ClientTasks
    created: float


@define(eq=False, repr=False)
class CreationIndex:
    """What one client knows of its creates, by the generation's id."""

    _known: dict[str, CreationInfo] = field(factory=dict[str, CreationInfo], init=False)

    def note(
        self,
        generation_id: str,
        body: Mapping[str, object],
        created: float,
        tasks: ClientTasks,
    ) -> None:
        """Note that a create with this body, sent at this time, was successful."""
        creation = CreationInfo(str(body["model"]), video_length(body), tasks, created)
        self._known[generation_id] = creation
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    def of(self, generation_id: str, tasks: ClientTasks) -> CreationInfo | None:
        """Return a creation, if it is known and of the same event loop."""
        creation = self._known.get(generation_id)
        return creation if creation is not None and creation.tasks is tasks else None

    def forget(self, generation_id: str) -> None:
        """Forget the creation of a generation that has ended."""
        self._known.pop(generation_id, None)
