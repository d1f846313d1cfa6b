"""The web server: on this machine only, for whoever has the address with its token."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.live.frames import HEADER, MOST_PIXELS
from mol.live.page import Assets, refusal_page
from mol.live.room import FULL, Room

HOST = "127.0.0.1"
_START_SECONDS = 20.0
_Scope = MutableMapping[str, Any]
_App = Callable[[_Scope, Any, Any], Awaitable[None]]


def listen(port: int) -> socket.socket:
    """A socket on the loopback device.

    Args:
        port: 0 takes a free one.
    Raises:
        SettingsError: the port is in use, or needs more rights.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((HOST, port))
        found.listen(64)
    except OSError as error:
        found.close()
        why = {
            errno.EADDRINUSE: "is in use by another program, perhaps another live view",
            errno.EACCES: "needs the rights of an administrator",
        }.get(error.errno or 0, f"cannot be used ({error.strerror})")
        raise SettingsError(f"port {port} {why}; give another --port, or 0 for a free one") from error
    return found


class Guard:
    """Lets only requests through that come from this page, or from a person who types its address.

    The name in ``Host`` must be that of this machine, so that no name of another site that is resolved to it will do;
    ``Origin``, which browsers send with every WebSocket and with what other pages ask for, must be this page's; and the
    address must begin with the token.

    Args:
        app: gets the requests that pass, with the token taken from their paths.
        token: the first part of every path.
        port: on which the server listens.
    """

    def __init__(self, app: _App, token: str, port: int) -> None:
        self._app, self._token, self._home = app, token.encode(), f"/{token}/".encode()
        self._hosts = {f"{name}:{port}".encode() for name in (HOST, "localhost")}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: _Scope, receive: Any, send: Any) -> None:
        """Answer one request, or refuse it."""
        why = self._why_not(scope)
        if why is None:
            if scope["path"].count("/") == 1:
                await _answer(send, 307, "", [(b"location", self._home)])
                return
            path = "/" + scope["path"].split("/", 2)[2]
            await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why})
        else:
            await _answer(send, 403, refusal_page(why))

    def _why_not(self, scope: _Scope) -> str | None:
        """Why a request is refused; None if it is not."""
        headers = scope["headers"]
        origins = [value for name, value in headers if name == b"origin"]
        if [value for name, value in headers if name == b"host"] not in [[host] for host in self._hosts]:
            return "it was asked for under another name than this machine's"
        if any(origin not in self._origins for origin in origins):
            return "another page asked for it"
        is_socket = scope["type"] == "websocket"
        if is_socket and not origins:
            return "it did not come from the page"
        given, slash, _ = scope["path"].removeprefix("/").partition("/")
        # In a time that does not depend on how much of the token is right.
        if not hmac.compare_digest(given.encode(errors="replace"), self._token) or (is_socket and not slash):
            return "the address has no token, or an old one"
        return None


async def _answer(send: Any, status: int, page: str, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    body = page.encode()
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in PROTECTION.items()),
        (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


PROTECTION = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "Cache-Control": "no-store",
}
"""Headers of every answer."""


def make_app(room: Room, assets: Assets, port: int) -> _App:
    """The Starlette application behind the guard: the page, its files, and its WebSocket."""
    applications, routing = require("starlette.applications", "live"), require("starlette.routing", "live")
    responses, sockets = require("starlette.responses", "live"), require("starlette.websockets", "live")
    addresses = " ".join(f"ws://{name}:{port}" for name in (HOST, "localhost"))
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {addresses}; "
        "img-src blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    async def file(request: Any) -> Any:
        name = request.path_params.get("name", "") or "live.html"
        if (found := assets.get(name)) is None:
            return responses.PlainTextResponse(f"there is no {name!r} here", 404, PROTECTION)
        content, kind = found
        return responses.Response(content, 200, {**PROTECTION, "Content-Security-Policy": policy}, kind)

    async def socket_of(connection: Any) -> None:
        await connection.accept()
        viewer = room.enter()
        if viewer is None:
            await connection.close(FULL, "too many pages are open")
            return
        sending = asyncio.create_task(_send_all(connection, viewer))
        try:
            while (message := await connection.receive())["type"] == "websocket.receive":
                text = message.get("text")
                room.hear(viewer, text if text is not None else message.get("bytes") or b"")
        finally:
            room.leave(viewer)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, RuntimeError, sockets.WebSocketDisconnect, OSError):
                await sending

    app: _App = applications.Starlette(
        routes=[
            routing.WebSocketRoute("/socket", socket_of),
            routing.Route("/", file),
            routing.Route("/{name}", file),
        ]
    )
    return app


async def _send_all(connection: Any, viewer: Any) -> None:
    while True:
        message = await viewer.next()
        if isinstance(message, bytes):
            await connection.send_bytes(message)
        else:
            await connection.send_text(message)


class Server:
    """The server in a thread of its own.

    Args:
        room: the pages that are open.
        assets: the page and its files.
        listening: see `listen`.

    Attributes:
        address: to open in a browser, with the token.

    Raises:
        MissingExtraError: the extra "live" is not installed.
    """

    def __init__(self, room: Room, assets: Assets, listening: socket.socket) -> None:
        uvicorn = require("uvicorn", "live")
        require("websockets", "live")
        self._socket = listening
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        self.address = f"http://{HOST}:{port}/{token}/"
        config = uvicorn.Config(
            Guard(make_app(room, assets, port), token, port),
            http="h11",
            ws="websockets-sansio",
            ws_max_size=HEADER.size + MOST_PIXELS + 1,
            ws_per_message_deflate=False,
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="mol live: server", daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> Server:
        self._thread.start()
        deadline = threading.Event()
        for _ in range(int(_START_SECONDS / 0.02)):
            if self._server.started or not self._thread.is_alive():
                break
            deadline.wait(0.02)
        if not self._server.started:
            raise SettingsError(f"the server of the page did not start: {self.failure or 'it took too long'}")
        return self

    def __exit__(self, *reason: object) -> None:
        self._server.should_exit = True
        self._thread.join(5)
        self._socket.close()

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve([self._socket]))
        except BaseException as error:  # the main thread says it
            self.failure = error
