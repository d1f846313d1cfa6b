"""A film in the place of a camera."""

from __future__ import annotations

import threading
import time
from typing import Any

from mol.common.errors import MOLError
from mol.live.engine import APART, SOONER
from mol.live.frames import LiveFrame, NewestFrame
from mol.live.room import Room
from mol.vision.footage import Footage


class FilmSource:
    """Plays a film into the place of the newest frame, in a thread of its own, from when a page is open.

    Args:
        film: the frames.
        newest: where they go.
        room: the pages.
        as_live: at the film's own rate, so that frames are dropped; otherwise as fast as they are read.
    """

    def __init__(self, film: Footage, newest: NewestFrame, room: Room, as_live: bool) -> None:
        self._film, self._newest, self._room, self._as_live = film, newest, room, as_live
        self._wanted = threading.Event()
        self._number, self._offset, self._played = 0, 0.0, False
        self.failure: BaseException | None = None
        room.opened = self._begin
        room.again = self._wanted.set
        self._thread = threading.Thread(target=self._run, name="mol live: film", daemon=True)

    def start(self) -> None:
        """Wait for a page from now on."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, which it does when nobody takes frames any more."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _begin(self) -> None:
        """Play for the first page that is opened; a later one joins, or asks for it again."""
        if not self._played:
            self._wanted.set()

    def _run(self) -> None:
        try:
            while not self._newest.closed:
                if self._wanted.wait(0.1):
                    self._play()
        except MOLError as error:
            self._room.tell({"kind": "ended", "why": str(error)}, film_state="ended")
        except BaseException as error:  # the main thread says it
            self.failure = error

    def _play(self) -> None:
        self._played = True
        self._room.tell({"kind": "playing"}, film_state="playing")
        seconds = self._film.seconds
        numbers = self._chosen()
        start = time.monotonic()
        for number, picture in zip(numbers, self._film.walk(numbers), strict=True):
            if self._newest.closed:
                return
            due = start + float(seconds[number])
            if self._as_live:
                time.sleep(max(0.0, due - time.monotonic()))
            arrived = due if self._as_live else time.monotonic()
            frame = LiveFrame(self._number, self._offset + float(seconds[number]), picture, arrived)
            self._number += 1
            (self._newest.put if self._as_live else self._newest.put_patiently)(frame)
        self._offset += self._film.duration + 60  # a second round is no part of the first one's windows
        self._wanted.clear()
        self._newest.wait_until_read()
        self._room.tell({"kind": "ended", "why": ""}, film_state="ended")

    def _chosen(self) -> list[int]:
        """Frames that are far enough apart for a window."""
        chosen, last = [], -1.0
        for number, time_of in enumerate(self._film.seconds.tolist()):
            if number == 0 or time_of - last >= SOONER * APART:
                chosen.append(number)
                last = time_of
        return chosen


def film_facts(film: Footage, name: str) -> dict[str, Any]:
    """What a page is told of the film."""
    height, width = film.shape
    return {"name": name, "duration": round(film.duration, 3), "size": [width, height]}
