"""A chat model behind an OpenAI-compatible endpoint: vLLM, SGLang, hosted models.

    image ─► resized by the preset's rule ─► data URL ─┐
    expression ─► the preset's prompt ─────────────────┴► answer cache, else server ─► readers ─► box

Every answer is stored under a hash of all that it depends on as soon as it arrives: a run that was killed sends no
request twice. Its text stands with the prediction, with tokens and cost.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image
from pydantic import Field

from bench.errors import BenchError, SettingsError
from bench.grounding import ImageArray, LoadedScene, PipelineContext, Prediction
from bench.runs.files import make_folder, write_atomically
from bench.settings import takes
from pipelines.card import CardOptions, make_card, parse_options
from pipelines.zoo.chat_client import BROKEN, ChatClient, ClientOptions, Refused, Reply
from pipelines.zoo.images import data_url, for_processor
from pipelines.zoo.presets import AnswerOptions, prompting

log = logging.getLogger("bench.api")
ENDED = {"length": "cut at {} tokens", "content_filter": "stopped by the server's filter"}


class ApiOptions(AnswerOptions):
    """[pipelines.api]."""

    base_url: str = Field("", description="of the server: http://127.0.0.1:8000/v1")
    model: str = Field("", description="as the server names it")
    max_tokens: int = Field(512, ge=8, description="of an answer")
    temperature: float = Field(0, ge=0)
    image: Literal["jpeg", "png"] = Field("jpeg", description="how an image is sent; jpeg is at quality 95")
    body: Mapping[str, Any] = Field(default_factory=dict, description='further keys of a request; "" drops one')
    client: ClientOptions = ClientOptions()
    card: CardOptions = CardOptions()


class Sent(NamedTuple):
    """An image as it is sent: its size in pixels, the size sent, and the data URL."""

    size: tuple[int, int]
    sent: tuple[int, int]
    url: str


class Api:
    """The box in the answer of a model behind a server."""

    def __init__(self, options: ApiOptions, context: PipelineContext) -> None:
        where = f"bench.toml [pipelines.{context.name}]"
        if not options.model:
            raise SettingsError(f"{where}: model: expected the model's name at the server: --set model=...")
        self.options, self.clock = options, context.clock
        self.prompting = prompting(options, where, default="plain", sets=context.several)
        self.client = ChatClient(options.base_url, options.client, context.offline, where)
        if unsure := self.prompting.preset.unsure:
            named, source = ", ".join(unsure), self.prompting.preset.source
            log.warning("preset %s: no source confirms its %s (%s)", self.prompting.mark, named, source)
        self.cache = AnswerCache(context.home / "answers", options.client.cache)
        self.card = make_card(
            context,
            options.card,
            summary=f"a chat model at a server, prompted for a box; it counts {self.prompting.preset.frame}",
            paper="",
            weights={"model": options.model},
            sha256={},
            parameters=None,
            prompt=self.prompting.mark,
        )

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """Name the answer cache, for `bench speed`: nothing that is stored is used again."""
        return {"answers": self.cache.forget}

    def prepare(self, image: ImageArray) -> Sent:
        """Resize and encode an image, RGB uint8 (H, W, 3), in any thread."""
        canvas = for_processor(image)
        size = self.prompting.preset.resize.size(*canvas.size)
        sized = canvas if size == canvas.size else canvas.resize(size, Image.Resampling.BICUBIC)
        return Sent(canvas.size, size, data_url(sized, self.options.image))

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict one box for every query of every scene, in order.

        Raises BenchError where the server does not answer; what it did answer is stored.
        """
        # 1. Each different request once.
        with self.clock.stage("image encode"):
            images = [scene.prepared or self.prepare(scene.image) for scene in batch]
        bodies: dict[str, dict[str, Any]] = {}
        keys = []
        for scene, image in zip(batch, images, strict=True):
            for query in scene.queries:
                body = self._body(image, self.prompting.question(query.text))
                keys.append((query.id, image, self._key(body)))
                bodies.setdefault(keys[-1][2], body)
        # 2. Answers, from the cache or from the server.
        with self.clock.stage("generate"):
            stored = {key: reply for key in bodies if (reply := self.cache.get(key))}
            replies = stored | self._send({key: body for key, body in bodies.items() if key not in stored})
        # 3. Boxes.
        return [self._prediction(query_id, image, replies[key]) for query_id, image, key in keys]

    def _send(self, bodies: Mapping[str, dict[str, Any]]) -> dict[str, Reply | Refused]:
        """Send requests, some at once; each answer is stored as it arrives, also when another request fails."""
        replies: dict[str, Reply | Refused] = {}

        def work(key: str) -> Reply | Refused:
            try:
                reply = self.client.send(bodies[key])
            except Refused as refused:
                return refused
            self.cache.put(key, reply)
            return reply

        self.client.stopped.clear()
        pool = ThreadPoolExecutor(self.options.client.concurrency, "answers")
        try:
            futures = {pool.submit(work, key): key for key in bodies}
            for future in as_completed(futures):
                replies[futures[future]] = future.result()
        except BaseException:
            self.client.stopped.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)  # those on their way are waited for, and stored
        refused = next((reply for reply in replies.values() if isinstance(reply, Refused)), None)
        if refused is not None and not self.client.answered:
            raise BenchError(f"{self.client.server} refuses every request: {refused}; see model and body")
        if refused is not None:
            log.warning("%s refuses a request, a counted miss: %s", self.client.server, refused)
        return replies

    def _prediction(self, query_id: str, image: Sent, reply: Reply | Refused) -> Prediction:
        if isinstance(reply, Refused):
            return Prediction(query_id, None, note=f"no box: the server refuses the request with {reply.status}")
        remark = ENDED.get(reply.finish, "").format(reply.tokens_out)
        usage = (reply.tokens_in, reply.tokens_out, self.client.cost(reply.tokens_in, reply.tokens_out))
        remarks = [remark] if remark else []
        return self.prompting.prediction(query_id, reply.text, image.size, image.sent, remarks, usage)

    def _body(self, image: Sent, question: str) -> dict[str, Any]:
        """Make the body of a request."""
        first = {"type": "image_url", "image_url": {"url": image.url}}
        content = [first, {"type": "text", "text": question}]
        body = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.options.max_tokens,
            "temperature": self.options.temperature,
        }
        return {key: value for key, value in {**body, **self.options.body}.items() if value != ""}

    def _key(self, body: Mapping[str, Any]) -> str:
        """Hash all that an answer depends on, and nothing more: other readers parse stored answers again."""
        return hashlib.sha256(
            json.dumps([self.options.base_url.rstrip("/"), body], sort_keys=True).encode()
        ).hexdigest()


class AnswerCache:
    """Answers by the hash of their request, a file each; another process may use the same folder."""

    def __init__(self, folder: Path, use: bool) -> None:
        self.folder, self.use = folder, use
        self._new: set[str] | None = None  # after `forget`: what may be used again

    def get(self, key: str) -> Reply | None:
        """Load an answer; None where there is none, or a damaged file."""
        if not self.use or not (self._new is None or key in self._new):
            return None
        try:
            text, tokens_in, tokens_out, finish = json.loads(self._path(key).read_bytes())
            return Reply(str(text), int(tokens_in), int(tokens_out), str(finish))
        except (OSError, *BROKEN):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Store an answer, whole or not at all. Raises RunError."""
        if self.use:
            make_folder(self._path(key).parent)
            write_atomically(self._path(key), json.dumps(reply).encode())
            if self._new is not None:
                self._new.add(key)

    def forget(self) -> None:
        """Use nothing again that is stored now; the files stay."""
        self._new = set()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


@takes(ApiOptions)
def api(context: PipelineContext) -> Api:
    """Open api. Raises SettingsError, UnknownName."""
    return Api(parse_options(ApiOptions, context), context)
