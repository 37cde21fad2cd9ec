"""The page: Gradio's components around the desk. What it shows is made on this machine and stays there."""

from __future__ import annotations

import html
import io
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.datasets.images import decode
from bench.demo.desk import EMBEDDED, OWN, Answered, Desk
from bench.demo.guard import MAX_UPLOAD, Guard
from bench.errors import BenchError, MissingPackage, UsageError
from bench.install import pip_install

if TYPE_CHECKING:
    from PIL import Image

    from bench.grounding import ImageArray

WEIGHTS = {"trained on the embedded scenes (shapes)": EMBEDDED, "trained on photographs (bench.toml's defaults)": OWN}
COLUMNS = ["pipeline", "score", "ms", "left", "top", "right", "bottom", "note"]
PIXELS = [150, 80, 80, 70, 70, 70, 80, 200]  # of the columns; a narrow window scrolls
ORIENTATION = 274  # of EXIF
FIRST_PORT, PORTS = 7860, 100
CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#message { min-height: 0; } #message .error { color: var(--error-text-color); }
#answers .grid-wrap { height: auto; max-height: none !important; overflow: visible; padding: 0; }
#answers .grid-container { grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); padding: 0; }
#answers .thumbnail-item { display: flex; flex-direction: column; aspect-ratio: auto; height: auto; }
#answers .thumbnail-item > img { height: auto; max-height: 22rem; }
#answers .caption-label { position: static; max-width: none; padding: 8px 10px; border: 0; background: none;
  white-space: normal; opacity: 1 !important; }
#numbers { max-width: calc(100vw - 4rem); overflow-x: auto; }
"""


def open_page(desk: Desk, host: str, port: int | None, show: bool, wait: bool = True) -> tuple[Any, str]:
    """Serve the page, with `wait` until it is stopped; returns the page and its address.

    What is uploaded and drawn is in a temporary folder, which goes with the page. Raises MissingPackage without gradio,
    UsageError for an address that cannot be taken.
    """
    gradio = load_gradio()
    from starlette.middleware import Middleware

    files = TemporaryDirectory(prefix="bench-demo-", ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = files.name
    page = build_page(desk)
    weakref.finalize(page, files.cleanup)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=show,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            footer_links=[],
            ssr_mode=False,
            max_file_size=MAX_UPLOAD,
            app_kwargs={"middleware": [Middleware(Guard, host=host)]},
            theme=gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=CSS,
        )
    except OSError as error:
        taken = f"--port {port}" if port else f"ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
        raise UsageError(f"--host {host}, {taken}: cannot be used ({error}); choose another with --port") from None
    if wait:
        print(f"bench demo: {address} (Ctrl-C ends it)", flush=True)
        try:
            page.block_thread()
        finally:
            files.cleanup()
    return page, address


def build_page(desk: Desk) -> Any:
    """Build gr.Blocks; programs call /ask (image, text, pipelines, weights) -> drawings, table, message."""
    gr = load_gradio()
    samples = desk.samples()
    first = EMBEDDED if desk.offered(EMBEDDED) else OWN
    labels = {dataset: label for label, dataset in WEIGHTS.items()}

    def take(index: int | None) -> tuple[Any, ...]:
        if index is None:
            return (gr.skip(),) * 4
        scene, expression = samples[index]
        names = desk.offered(EMBEDDED)
        return desk.image(scene), expression.text, labels[EMBEDDED], gr.update(choices=names)

    def other_weights(label: str, chosen: Sequence[str]) -> Any:
        names = desk.offered(WEIGHTS[label])
        kept = [name for name in chosen if name in names]
        return gr.update(choices=names, value=kept or desk.chosen(WEIGHTS[label]))

    def ask(path: str | None, text: str, names: Sequence[str], label: str) -> Any:
        answered: list[Answered] = []
        try:
            if label not in WEIGHTS:
                raise UsageError(f"weights: choose one of {', '.join(map(repr, WEIGHTS))}")
            image = None if path is None else uploaded(Path(path))
            for one in desk.answers(image, text or "", names or [], WEIGHTS[label]):
                answered.append(one)
                waiting = "" if len(answered) == len(names) else f"{len(answered)} of {len(names)} ..."
                yield drawings(answered), table(answered), message_of(answered, waiting)
        except BenchError as error:
            yield [], [], _error(str(error))

    with gr.Blocks(title="grounding-bench", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(
            "## Where is it?\nAn image, an expression, and the box each pipeline answers. Nothing leaves this machine."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                image = gr.Image(
                    type="filepath", label="image", sources=["upload", "clipboard"], height=320, format="png"
                )
                # Gradio would decode it in its own way, with its own limits and words.
                image.preprocess = lambda given: given and given.path
                scene = gr.Dropdown(
                    [(f"{e.text} ({scene.id})", number) for number, (scene, e) in enumerate(samples)],
                    value=None,
                    label="or take an embedded scene",
                    filterable=False,
                )
                text = gr.Textbox(label="expression", placeholder="the red car on the left", submit_btn=False)
                button = gr.Button("Ask", variant="primary")
                weights = gr.Radio(list(WEIGHTS), value=labels[first], label="weights")
                names = gr.CheckboxGroup(desk.offered(first), value=desk.chosen(first), label="pipelines ready here")
            with gr.Column(scale=3, min_width=320):
                message = gr.HTML(elem_id="message")
                answers = gr.Gallery(
                    label="answers",
                    show_label=False,
                    object_fit="contain",
                    elem_id="answers",
                    buttons=[],
                    height="auto",
                )
                numbers = gr.Dataframe(
                    headers=COLUMNS,
                    column_widths=PIXELS,
                    label="numbers",
                    elem_id="numbers",
                    interactive=False,
                    wrap=True,
                )
        scene.input(take, scene, [image, text, weights, names], api_visibility="private").then(
            other_weights, [weights, names], names, api_visibility="private"
        )
        weights.input(other_weights, [weights, names], names, api_visibility="private")
        event = {"fn": ask, "inputs": [image, text, names, weights], "outputs": [answers, numbers, message]}
        button.click(**event, api_name="ask")
        text.submit(**event, api_visibility="private")
    return page


def uploaded(path: Path) -> ImageArray:
    """Decode an uploaded file, turned as its EXIF says. Raises ImageError, which names the file without its folder."""
    from PIL import Image, ImageOps

    data = path.read_bytes()
    pixels = decode(data, path.name)
    image = Image.fromarray(pixels)
    with Image.open(io.BytesIO(data)) as opened:
        image.getexif()[ORIENTATION] = opened.getexif().get(ORIENTATION, 1)
    return np.array(ImageOps.exif_transpose(image))


def drawings(answered: Sequence[Answered]) -> list[tuple[Image.Image, str]]:
    """Draw the answers, each with a caption; pipelines that failed have none."""
    out = []
    for pipeline, answer, milliseconds, _ in answered:
        if answer is None:
            continue
        score = "" if answer.score is None else f" · {answer.score:.2f}"
        caption = f"{pipeline}{score} · {milliseconds:.0f} ms" + (" · no box" if answer.box is None else "")
        caption += f" · ⚠ {answer.prediction.note}" if answer.prediction.note else ""
        # Without the strip that holds the expression: it stands beside, in its field.
        out.append((answer.drawn().crop((0, 0, *answer.image.shape[1::-1])), caption))
    return out


def table(answered: Sequence[Answered]) -> list[list[Any]]:
    """Make a row for each pipeline, in the order of COLUMNS: pixels at 1 decimal, milliseconds at 1."""
    rows = []
    for pipeline, answer, milliseconds, error in answered:
        box, score = (answer.box, answer.score) if answer else (None, None)
        note = error or (answer.prediction.note if answer else "")
        rows.append(
            [
                pipeline,
                None if score is None else round(score, 4),
                None if milliseconds is None else round(milliseconds, 1),
                *([None] * 4 if box is None else [round(v, 1) for v in box]),
                note or ("no box" if box is None else ""),
            ]
        )
    return rows


def message_of(answered: Sequence[Answered], waiting: str) -> str:
    """Write the message above the answers, as HTML: what failed, and what still runs."""
    return "".join(_error(f"{name}: {error}") for name, *_, error in answered if error) + html.escape(waiting)


def _error(text: str) -> str:
    return f'<p class="error">{html.escape(text)}</p>'


def load_gradio() -> Any:
    """Import gradio with its analytics off. Raises MissingPackage."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is first imported: no usage, no version check
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"bench demo needs the package {error.name!r}, which is not installed: {pip_install('demo')}"
        ) from None
    return gradio
