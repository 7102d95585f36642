"""The page of the standalone host: txt2img and the Textual Inversion tab, under the element ids of the WebUIs."""

from __future__ import annotations

import inspect
from html import escape
from random import randrange
from typing import Any

import gradio as gr

from lib_ti.errors import BadInput, Problem, TextualInversionError
from lib_ti.webui.service import TrainingService
from lib_ti.webui.standalone.host import StandaloneHost
from lib_ti.webui.standalone.txt2img import Txt2Img, Txt2ImgRequest
from lib_ti.webui.ui import picker, tab

TITLE = "Textual Inversion"


def build(host: StandaloneHost, service: TrainingService) -> Any:
    """The page as `gr.Blocks`."""
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}  # none from the network
    # outside the page's Blocks, which would render it at once
    training_tab = tab.build(service.actions(), host.hides_paths, service.redact)
    with gr.Blocks(title=TITLE, analytics_enabled=False, theme=gr.themes.Default(**fonts)) as page:
        with gr.Row(elem_id="quicksettings"):
            checkpoint = gr.Dropdown(
                [choice.title for choice in host.checkpoints], value=lambda: host.selected_checkpoint().title,
                label="Checkpoint", elem_id="setting_sd_model_checkpoint",
            )  # fmt: skip
        with gr.Tabs(elem_id="tabs", selected="textual_inversion"):
            with gr.TabItem("txt2img", id="txt2img", elem_id="tab_txt2img"):
                width, height = _build_txt2img(host, service)
            with gr.TabItem(TITLE, id="textual_inversion", elem_id="tab_textual_inversion"):
                training_tab.render()

        def select(title: str) -> tuple[int, int]:
            host.select(title)
            return host.resolution(), host.resolution()

        checkpoint.input(select, [checkpoint], [width, height], queue=False, show_progress="hidden", api_name=False)
    return page.queue()


def _build_txt2img(host: StandaloneHost, service: TrainingService) -> tuple[Any, Any]:
    """Build the contents of the txt2img tab; returns the width and height fields."""
    txt2img = Txt2Img(host, service.embedding_index)
    with gr.Row(elem_id="txt2img_toprow"):
        with gr.Column(scale=6):
            prompt = gr.Textbox(label="Prompt", elem_id="txt2img_prompt", lines=3)
            negative_prompt = gr.Textbox(label="Negative prompt", elem_id="txt2img_neg_prompt", lines=2)
        with gr.Column(scale=1, min_width=160):
            generate_button = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
            interrupt_button = gr.Button("Interrupt", elem_id="txt2img_interrupt")
    with gr.Row():
        with gr.Column(min_width=320, elem_id="txt2img_settings"):
            with gr.Row():
                steps = _number("Sampling steps", "steps", 20)
                width, height = (_number(side.capitalize(), side, host.resolution()) for side in ("width", "height"))
            with gr.Row():
                guidance = gr.Number(7, label="CFG scale", elem_id="txt2img_cfg_scale", min_width=100)
                seed, count = _number("Seed (-1: any)", "seed", -1), _number("Batch size", "batch_size", 1)
            picker.build("txt2img", service.embedding_index.entries)
        with gr.Column(min_width=320):
            gallery = gr.Gallery(
                label="Pictures", elem_id="txt2img_gallery", columns=2, **supported_arguments(gr.Gallery, format="png")
            )
            info = gr.HTML(elem_id="html_info_txt2img")

    def generate(progress: Any = gr.Progress(), *fields: Any) -> tuple[Any, str]:  # noqa: B008 - gradio injects it
        progress(0, desc="Waiting for the training to end" if host.is_gpu_lent else "Loading the checkpoint")
        try:
            result = txt2img.generate(parse_fields(*fields), lambda fraction: progress(fraction, desc="Generating"))
        except (TextualInversionError, RuntimeError, OSError) as error:  # out of memory, or the checkpoint was deleted
            return gr.update(), f'<p role="alert">{escape(service.redact(str(error)))}</p>'
        for image, infotext in zip(result.images, result.infotexts, strict=True):
            image.info["parameters"] = infotext  # gradio writes it into the PNG
        lines = [result.note, *result.infotexts[:1]]
        return list(result.images), "".join(f"<p>{escape(line)}</p>".replace("\n", "<br>") for line in lines if line)

    fields = [prompt, negative_prompt, steps, guidance, width, height, seed, count]
    for event in (generate_button.click, prompt.submit, negative_prompt.submit):
        event(generate, fields, [gallery, info], api_name=False)
    interrupt_button.click(txt2img.interrupt, [], [], queue=False, api_name=False)
    return width, height


def _number(label: str, name: str, value: int) -> Any:
    return gr.Number(value, label=label, precision=0, elem_id=f"txt2img_{name}", min_width=100)


def parse_fields(
    prompt: str, negative_prompt: str, steps: Any, guidance: Any, width: Any, height: Any, seed: Any, count: Any
) -> Txt2ImgRequest:
    """The request in the txt2img fields. Raises BadInput if a value is out of range."""
    ranges = {
        "Sampling steps": (steps, 1, 1000), "CFG scale": (guidance, 0, 100), "Width": (width, 64, 4096),
        "Height": (height, 64, 4096), "Seed": (seed, -1, 2**32 - 1), "Batch size": (count, 1, 100),
    }  # fmt: skip
    problems = [
        Problem("", f"{label} goes from {low} to {high}.")
        for label, (value, low, high) in ranges.items()
        if value is None or not low <= value <= high
    ]
    if not problems and (width % 8 or height % 8):
        problems.append(Problem("", "Width and height have to be multiples of 8."))
    if problems:
        raise BadInput(problems)
    seed = randrange(2**32) if seed == -1 else int(seed)
    return Txt2ImgRequest(
        prompt, negative_prompt, int(steps), float(guidance), int(width), int(height), seed, int(count)
    )


def supported_arguments(function: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the installed gradio's function or class takes."""
    return {name: value for name, value in arguments.items() if name in inspect.signature(function).parameters}
