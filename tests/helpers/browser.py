"""A headless Chromium that tests click and type in, over the DevTools protocol on two pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
WHY_NOT = f"none of {', '.join(BROWSERS)} is on the PATH"
_OPTIONS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --hide-scrollbars --mute-audio --remote-debugging-pipe
""".split()  # noqa: SIM905 - read as the command line that it is
_KEYS = {" ": "Space", "?": "Slash"}
_NUMBERS = {"Escape": 27, "Enter": 13, "Tab": 9}  # for what the browser itself does with a key
_SHIFT = 8


class Browser:
    """One process of Chromium; pages are opened in it one after another.

    Args:
        folder: for its profile.
        options: more of its command line.
    """

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        assert BROWSER
        (self._reading, out), (into, self._writing) = os.pipe(), os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4, which may be taken here.
        theirs_in, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (into, out))
        shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", shell, BROWSER, *_OPTIONS, *options, f"--user-data-dir={folder / 'profile'}"]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in (into, out, theirs_in, theirs_out):
            os.close(end)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the process."""
        self.call("Browser.close")
        self._process.wait(timeout=20)
        os.close(self._reading)
        os.close(self._writing)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writing, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer.get("result", {})

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._reading], [], [], 60)[0]:
                raise TimeoutError("the browser does not answer")
            more = os.read(self._reading, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(
        self, page: Path | str, width: int = 1400, height: int = 900, scale: float = 1, dark: bool = False
    ) -> Page:
        """Open a file or an address in a window of some size, in CSS pixels."""
        return Page(self, page, width, height, scale, dark)


class Page:
    """One page in the browser; what it asks for and what it complains of is kept."""

    def __init__(self, browser: Browser, page: Path | str, width: int, height: int, scale: float, dark: bool) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        self._target = target
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height, scale)
        self.prefer(dark)
        address = page if isinstance(page, str) else page.as_uri()
        self.call("Page.navigate", url=address)
        self.wait(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol for this page."""
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width: int, height: int = 900, scale: float = 1) -> None:
        """Give the window another size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def prefer(self, dark: bool, reduced_motion: bool = False) -> None:
        """What the system of the reader asks for."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 15) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} did not become true"
            time.sleep(0.02)

    def press(self, key: str, shift: bool = False) -> None:
        """Press and release a key, named as in ``KeyboardEvent.key``."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        parameters = {"key": key, "code": _KEYS.get(key, key), "modifiers": _SHIFT * shift}
        parameters["windowsVirtualKeyCode"] = _NUMBERS.get(key, 0)
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **parameters)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def click(self, selector: str, x: float | None = None, y: float | None = None) -> None:
        """Click an element, in its middle or at a place in it."""
        self.drag(selector, [(x, y)])

    def drag(self, selector: str, places: list[tuple[float | None, float | None]]) -> None:
        """Press the button at the first place in an element, move over the others and release it at the last."""
        box = self.box(selector)
        points = [
            (
                box["x"] + (box["width"] / 2 if x is None else x),
                box["y"] + (box["height"] / 2 if y is None else y),
            )
            for x, y in places
        ]
        self._mouse("mouseMoved", *points[0], 0)
        self._mouse("mousePressed", *points[0], 1)
        for point in points[1:]:
            self._mouse("mouseMoved", *point, 1)
        self._mouse("mouseReleased", *points[-1], 0)

    def hover(self, selector: str, x: float, y: float) -> None:
        """Move the pointer over a place in an element."""
        box = self.box(selector)
        self._mouse("mouseMoved", box["x"] + x, box["y"] + y, 0)

    def wheel(self, selector: str, x: float, y: float, delta: float, ctrl: bool = False) -> None:
        """Turn the wheel over a place in an element."""
        box = self.box(selector)
        place = {"x": box["x"] + x, "y": box["y"] + y, "deltaX": 0, "deltaY": delta, "modifiers": 2 * ctrl}
        self.call("Input.dispatchMouseEvent", type="mouseWheel", **place)

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is in the window, after scrolling to it."""
        return self.run(
            f"""(() => {{
              const element = document.querySelector({json.dumps(selector)});
              element.scrollIntoView({{block: "center", behavior: "instant"}});
              const {{x, y, width, height}} = element.getBoundingClientRect();
              return {{x, y, width, height}};
            }})()"""
        )

    def _mouse(self, kind: str, x: float, y: float, buttons: int) -> None:
        button = "none" if kind == "mouseMoved" and not buttons else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1)

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        """A picture of the window, or of the whole page."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def downloads_to(self, folder: Path) -> None:
        """Save files that the page offers."""
        self._browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions, refused loads."""
        self.run("0")
        found = []
        for event in self._events():
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] != "verbose":
                found.append(event["params"]["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(json.dumps(event["params"]["args"]))
        return found

    def requests(self) -> list[str]:
        """Everything that the page has asked for."""
        self.run("0")
        return [
            event["params"]["request"]["url"]
            for event in self._events()
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _events(self) -> list[dict[str, Any]]:
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)
