"""The guard of the page: who may ask, how much, and that no other page frames it.

A page of somebody else's in the same browser can send requests to this machine, under a name that it has pointed here
too (DNS rebinding). So the Host must be an address, and an Origin the page's own.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any

MAX_UPLOAD = 32 * 2**20  # bytes; the pixels have the limit of every image
HEADERS = {
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI application around another: refuses foreign requests and large ones, and forbids frames."""

    def __init__(self, app: App, host: str) -> None:
        """`host` is the address that is served on; its name may stand in the header Host."""
        self.app, self.names = app, {host, "localhost", socket.gethostname()}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if refusal := self.refusal(headers):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            status, text = refusal
            body = json.dumps({"detail": text}).encode()
            kind = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": [*kind, *_encoded()]})
            await send({"type": "http.response.body", "body": body})
            return

        async def unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [each for each in message.get("headers", ()) if each[0].decode("latin-1").lower() not in HEADERS]
                message["headers"] = [*kept, *_encoded()]
            await send(message)

        await self.app(scope, receive, unframed)

    def refusal(self, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        """Return the status and the reason of a request that is refused, by its headers in lower case."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return 403, f"bench demo answers to addresses, localhost and --host, not to {host!r:.80}"
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return 403, f"bench demo answers to its own page, not to one from {origin!r:.80}"
        if "transfer-encoding" in headers:
            return 411, "bench demo takes requests of a stated length only"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_UPLOAD:
            return 413, f"the limit of an upload is {MAX_UPLOAD >> 20} MiB; make the image smaller"
        return None

    def _is_ours(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdecimal() else host
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in {each.lower() for each in self.names}
        return True


def _encoded() -> list[tuple[bytes, bytes]]:
    return [(key.encode(), value.encode()) for key, value in HEADERS.items()]
