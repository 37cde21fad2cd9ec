"""Client of an OpenAI-compatible endpoint: one request, sent again where the server or the network failed.

    body ─► rate limit ─► POST base_url/chat/completions ─► reply
                 ▲ 429, 5xx, timeout, half an answer: wait, twice as long each time, or as Retry-After demands

The key comes from the environment and goes into a header; it stands in no message, and no log of ours.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
from pydantic import Field

from bench.errors import BenchError, SettingsError, WeightsError
from bench.settings import Table

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
REFUSED = {400, 413, 422}  # this request, not the server: an image too large, a filter of contents
AGAIN = {408, 409, 425, 429}
BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
MOST_LETTERS = 200  # letters of a server's message


class ClientOptions(Table):
    """[pipelines.api.client]: how the server is reached; none of it moves a number."""

    key: str = Field("", description="name of the environment variable that has the key; empty = none is sent")
    concurrency: int = Field(16, ge=1, le=1024, description="requests at once, within a batch")
    requests_per_minute: float = Field(0, ge=0, description="0 = no limit")
    timeout_s: float = Field(120, gt=0, description="without a byte from the server")
    attempts: int = Field(8, ge=1, description="of a request")
    wait_s: float = Field(1, gt=0, description="before the second attempt, twice as long before each further one")
    longest_wait_s: float = Field(120, gt=0)
    price_in: float = Field(0, ge=0, description="of a million tokens in, in any currency")
    price_out: float = Field(0, ge=0, description="of a million tokens out")
    cache: bool = Field(True, description="keep answers in BENCH_HOME/answers, and send no request twice")


class Reply(NamedTuple):
    """A model's text, tokens in and out, and why it ended."""

    text: str
    tokens_in: int
    tokens_out: int
    finish: str


class Refused(Exception):
    """The server refuses this one request; the status and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Stopped(Exception):
    """The work was given up while a request waited for its turn."""


class ChatClient:
    """Sends requests from several threads at once."""

    def __init__(self, base_url: str, options: ClientOptions, offline: bool, where: str) -> None:
        """Check the address and the name of the key's variable. Raises SettingsError, which shows neither's value."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(
                f"{where}: base_url: expected the address of an OpenAI-compatible server, "
                "such as http://127.0.0.1:8000/v1: --set base_url=... --set model=..."
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise SettingsError(
                f"{where}: base_url: expected an address without user, password or query; a key belongs in an "
                "environment variable, whose name is client.key"
            )
        local = parts.hostname in LOOPBACK
        if offline and not local:
            raise SettingsError(f"{where}: base_url names {parts.hostname}, and offline is set; only loopback is taken")
        if options.key and not VARIABLE.fullmatch(options.key):
            raise SettingsError(
                f"{where}: client.key: expected the NAME of an environment variable, in capitals, never the key itself"
            )
        self._key = os.environ.get(options.key, "").strip() if options.key else ""
        if options.key and not self._key:
            raise SettingsError(f"{where}: client.key names a variable that the environment does not have")
        if not (self._key.isascii() and self._key.isprintable()):
            raise SettingsError(f"{where}: the variable that client.key names holds no key: letters no header can have")
        self.options, self.server = options, parts.netloc
        self._url = base_url.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        limits = httpx.Limits(max_connections=options.concurrency, max_keepalive_connections=options.concurrency)
        # A proxy of the environment is for other machines.
        self._http = httpx.Client(timeout=options.timeout_s, limits=limits, headers=headers, trust_env=not local)
        self._lock, self._free, self.stopped = threading.Lock(), 0.0, threading.Event()
        self._random = random.Random()
        self.answered = False

    def send(self, body: Mapping[str, Any]) -> Reply:
        """Send a request until it is answered.

        Raises Refused, Stopped, WeightsError for a key or a model that the server does not take, and BenchError where
        all attempts failed.
        """
        content, fault, demanded = json.dumps(body).encode(), "", 0.0
        for attempt in range(self.options.attempts):
            if attempt:
                self._wait(self._pause(attempt, demanded))
            self._take_turn()
            demanded = 0.0
            try:
                response = self._http.post(self._url, content=content)
            except httpx.TimeoutException:
                fault = f"no byte within {self.options.timeout_s:g} s"
                continue
            except httpx.TransportError as error:  # refused, reset, or cut short
                fault = self._clean(str(error) or type(error).__name__)
                if isinstance(error, httpx.ConnectError) and self._hopeless(attempt):
                    break
                continue
            if response.status_code == 200:
                try:
                    reply = _reply(response.json())
                except BROKEN:
                    fault = f"an answer that is not one of the protocol: {self._message(response)}"
                    if self._hopeless(attempt):
                        break
                    continue
                self.answered = True
                return reply
            fault = f"status {response.status_code}: {self._message(response)}"
            if response.status_code < 500 and response.status_code not in AGAIN:
                raise self._refusal(response.status_code, fault)
            demanded = _retry_after(response.headers.get("Retry-After", ""))
            if demanded > self.options.longest_wait_s:
                fault += f"; it demands a pause of {demanded:.0f} s, longer than client.longest_wait_s"
                break
            if response.status_code == 429:  # the others wait too
                with self._lock:
                    self._free = max(self._free, time.monotonic() + demanded)
        raise BenchError(
            f"{self.server}: no answer in {attempt + 1} attempts ({fault}); what was answered is stored: the same "
            "command goes on from there"
        )

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Compute the price of an answer."""
        return (tokens_in * self.options.price_in + tokens_out * self.options.price_out) / 1e6

    def _hopeless(self, attempt: int) -> bool:
        """Tell whether nothing, or something else, listens at the address: it never answered, three times."""
        return attempt >= 2 and not self.answered

    def _refusal(self, status: int, fault: str) -> Exception:
        if status in REFUSED:
            return Refused(status, fault)
        advice = {401: "the key in the variable that client.key names is not taken, or no variable is named"}
        advice |= {403: advice[401], 404: "see base_url (it ends in /v1 with most servers) and model"}
        return WeightsError(f"{self.server}: {fault}; {advice.get(status, 'see base_url and model')}")

    def _message(self, response: httpx.Response) -> str:
        """Cut the server's message short; some quote the key."""
        try:
            error = response.json()["error"]
            text = error["message"] if isinstance(error, dict) else error
        except (ValueError, KeyError, TypeError, RecursionError):
            text = response.text
        return self._clean(str(text))

    def _clean(self, text: str) -> str:
        text = text.replace(self._key, "***") if self._key else text
        return "".join(c if c.isprintable() else " " for c in text)[:MOST_LETTERS]

    def _pause(self, attempt: int, demanded: float) -> float:
        """Compute seconds until the next attempt: doubled each time, half by chance, at least Retry-After."""
        longest: float = min(self.options.longest_wait_s, self.options.wait_s * 2 ** min(attempt - 1, 30))
        return max(demanded, longest * self._random.uniform(0.5, 1))

    def _take_turn(self) -> None:
        """Wait until the rate limit lets one more request pass."""
        spacing = 60 / self.options.requests_per_minute if self.options.requests_per_minute else 0.0
        with self._lock:
            turn = max(self._free, time.monotonic())
            self._free = turn + spacing
        self._wait(turn - time.monotonic())

    def _wait(self, seconds: float) -> None:
        if self.stopped.wait(seconds) if seconds > 0 else self.stopped.is_set():
            raise Stopped


def _reply(answer: Any) -> Reply:
    """Take a reply apart. Raises one of BROKEN where it is none."""
    choice = answer["choices"][0]
    content = choice["message"]["content"]
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    if not isinstance(content or "", str):
        raise TypeError("content")
    usage = answer.get("usage") or {}
    tokens = [max(0, int(usage.get(key) or 0)) for key in ("prompt_tokens", "completion_tokens")]
    return Reply(content or "", tokens[0], tokens[1], str(choice.get("finish_reason") or ""))


def _retry_after(value: str) -> float:
    """Parse Retry-After: seconds, or a date; 0 for what is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0
