"""Whether weights can be fetched: one short attempt, in place of the minutes of retries that libraries make."""

from __future__ import annotations

import os
from functools import cache
from urllib.parse import urlsplit

SECONDS = 3.0
HUB = "https://huggingface.co"


def hub_address() -> str:
    """Return the hub's address; HF_ENDPOINT names a mirror."""
    return os.environ.get("HF_ENDPOINT") or HUB


def why_not(offline: bool, address: str | None = None) -> str:
    """Say why nothing can be fetched from an address (by default the hub's); "" where it answers."""
    if offline:
        return "offline is set, so nothing was fetched"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return "HF_HUB_OFFLINE is set, so nothing was fetched"
    parts = urlsplit(address or hub_address())
    return _refusal(f"{parts.scheme}://{parts.netloc}")


@cache
def _refusal(server: str) -> str:
    """Ask a server for its first page, through the proxy of the environment; "" when anything answered."""
    import ssl
    import threading
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    host = server.partition("://")[2]
    outcome = [f"{host} did not answer within {SECONDS:g} s"]

    def attempt() -> None:
        try:
            urlopen(Request(server, method="HEAD"), timeout=SECONDS).close()
        except HTTPError:  # a server is there
            outcome[0] = ""
        except Exception as error:  # a resolver, a proxy, a firewall
            reason = getattr(error, "reason", error)
            outcome[0] = "" if isinstance(reason, ssl.SSLError) else f"{host} cannot be reached ({reason})"
        else:
            outcome[0] = ""

    thread = threading.Thread(target=attempt, daemon=True)  # a resolver keeps no time limit
    thread.start()
    thread.join(SECONDS)
    return outcome[0]
