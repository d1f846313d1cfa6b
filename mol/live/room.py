"""Who looks at the page, and whose camera is read: one at a time, seen by all.

Everything here but `Room.publish` and `Room.tell` runs in the server's thread.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from mol.common.errors import ClipError
from mol.live.engine import APART, SOONER, Reading
from mol.live.frames import LiveFrame, NewestFrame, parse_frame
from mol.live.messages import reading_message, with_picture

MOST_VIEWERS = 8
MOST_TEXT = 2000
"""Characters of a page's message."""

FULL = 4001
"""Why a connection is closed: there are too many. A code of our own, as all from 4000 on."""

_WAITING = 16  # messages; a page that is slower loses the oldest


class Viewer:
    """One page that is open.

    Attributes:
        frame: the last one that it sent.
    """

    def __init__(self) -> None:
        self._waiting: deque[str | bytes] = deque()
        self._news = asyncio.Event()
        self.frame: LiveFrame | None = None

    def post(self, message: str | bytes) -> None:
        """Send a message soon; if many wait, the oldest reading is lost."""
        self._waiting.append(message)
        if len(self._waiting) > _WAITING:
            readings = (place for place, waits in enumerate(self._waiting) if is_reading(waits))
            del self._waiting[next(readings, 0)]
        self._news.set()

    async def next(self) -> str | bytes:
        """Wait for the next message to send."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


def is_reading(message: str | bytes) -> bool:
    """Whether a message may be lost, because a newer one says the same of a newer frame."""
    return isinstance(message, bytes) or '"kind": "reading"' in message[:32]


class Room:
    """The pages that are open.

    Args:
        newest: where frames for the network go.
        hello: what a page is told first.
        camera: whether the frames come from a page's camera, and not from a film.
        restart: called when the next frame comes from another source.
    """

    def __init__(
        self, newest: NewestFrame, hello: dict[str, Any], camera: bool, restart: Callable[[], None] = lambda: None
    ) -> None:
        self._newest, self._hello, self._camera, self._restart = newest, hello, camera, restart
        self._viewers: list[Viewer] = []
        self._owner: Viewer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._taken = -1.0
        self.again: Callable[[], None] = lambda: None
        self.opened: Callable[[], None] = lambda: None

    def enter(self) -> Viewer | None:
        """A page has connected; None if there are too many."""
        if len(self._viewers) >= MOST_VIEWERS:
            return None
        self._loop = asyncio.get_running_loop()
        viewer = Viewer()
        self._viewers.append(viewer)
        viewer.post(json.dumps({**self._hello, "kind": "hello"}))
        if self._camera:
            self._say_whose(viewer)
        self.opened()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """A page has gone; so has its camera."""
        self._viewers.remove(viewer)
        if viewer is self._owner:
            self._release()

    def hear(self, viewer: Viewer, message: str | bytes) -> None:
        """A page has sent something."""
        if isinstance(message, bytes):
            self._hear_frame(viewer, message)
            return
        try:
            kind = json.loads(message)["kind"] if len(message) <= MOST_TEXT else None
        except (ValueError, TypeError, LookupError, RecursionError):
            kind = None
        if kind == "claim" and self._camera:
            self._claim(viewer)
        elif kind == "release" and self._camera:
            if viewer is self._owner:
                self._release()
        elif kind == "again" and not self._camera:
            self.again()
        else:
            self._refuse(viewer, "the page sent a message that is not known here")

    def _hear_frame(self, viewer: Viewer, message: bytes) -> None:
        if viewer is not self._owner:
            self._refuse(viewer, "a frame came from a page whose camera is not read")
            return
        try:
            frame = parse_frame(message, viewer.frame)
        except ClipError as error:
            self._refuse(viewer, str(error))
            return
        viewer.frame = frame
        # The page keeps to this by itself; a little earlier is no mistake.
        if frame.seconds - self._taken >= SOONER * APART - 0.005:
            self._taken = frame.seconds
            self._newest.put(frame)

    @staticmethod
    def _refuse(viewer: Viewer, why: str) -> None:
        viewer.post(json.dumps({"kind": "refused", "why": why}))

    def _claim(self, viewer: Viewer) -> None:
        if self._owner is None:
            self._owner, viewer.frame, self._taken = viewer, None, -1.0
            self._newest.clear()
            self._restart()
            for one in self._viewers:
                self._say_whose(one)
        else:
            self._say_whose(viewer)

    def _release(self) -> None:
        self._owner = None
        self._newest.clear()
        for viewer in self._viewers:
            self._say_whose(viewer)

    def _say_whose(self, viewer: Viewer) -> None:
        whose = "nobody" if self._owner is None else "here" if viewer is self._owner else "elsewhere"
        viewer.post(json.dumps({"kind": "camera", "whose": whose}))

    def publish(self, reading: Reading, facts: dict[str, Any]) -> None:
        """Show a reading on all pages; from any thread.

        The page whose camera it is has the picture already.
        """
        if self._loop is None:
            return
        message = reading_message(reading, facts)
        text, whole = json.dumps(message), None
        if any(viewer is not self._owner for viewer in list(self._viewers)):
            whole = with_picture(message, reading.frame.picture)
        self._loop.call_soon_threadsafe(self._post, text, whole, self._owner)

    def tell(self, message: dict[str, Any], **lasting: Any) -> None:
        """Send a message to all pages; from any thread.

        Args:
            message: with its "kind".
            lasting: what pages that are opened later are told in their first message.
        """
        self._hello = {**self._hello, **lasting}
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._post, json.dumps(message), None, None)

    def _post(self, text: str, whole: bytes | None, owner: Viewer | None) -> None:
        for viewer in self._viewers:
            viewer.post(text if whole is None or viewer is owner else whole)
