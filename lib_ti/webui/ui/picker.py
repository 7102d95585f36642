"""The list of embeddings in txt2img and img2img: choose one, and put it into the prompt.

What the browser can do alone it does (tinv_picker.js). Python only hands out the list: a dropdown that Python were given
the value of would have its event refused once the value is not in the list that Python remembers.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_ti.webui import service
from lib_ti.webui.api import bridge

SHOWN = """
<div class="tinv-picker-shown">
  <div id="{tab}_tinv_thumb" class="tinv-picker-thumb"></div>
  <div id="{tab}_tinv_note" class="tinv-note" role="status" aria-live="polite"></div>
</div>
"""


def picker(tab: str) -> None:
    """Build it for a tab, "txt2img" or "img2img". To be called within `gr.Blocks`."""
    with gr.Accordion("Embeddings", open=False, elem_id=f"{tab}_tinv_accordion"):
        with gr.Row(elem_classes=["tinv-picker-row"]):
            chosen = gr.Dropdown([], label="Embedding", elem_id=f"{tab}_tinv_picker", scale=4, interactive=True)
            strength = gr.Textbox(
                "1", label="Strength", elem_id=f"{tab}_tinv_strength", max_lines=1, scale=1, min_width=80
            )
            again = gr.Button("🔄", elem_id=f"{tab}_tinv_refresh", elem_classes=["tool"], scale=0, min_width=40)
        with gr.Row(elem_classes=["tinv-picker-row"]):
            insert = gr.Button("Add to prompt", elem_id=f"{tab}_tinv_insert", min_width=120)
            negative = gr.Button("Add to negative", elem_id=f"{tab}_tinv_insert_negative", min_width=120)
        shown = gr.HTML(SHOWN.format(tab=tab))
        kept = gr.Textbox(visible=False)
    for component in (chosen, strength, again, insert, negative, shown, kept):
        component.do_not_save_to_config = True  # the hosts would write them into their ui-config.json
    bridge.on(chosen.change, f"(v) => {{ window.tinv?.picker?.choose('{tab}', v); return [v]; }}", [chosen], [kept])
    again.click(_choices, [kept], [chosen], queue=False, show_progress="hidden", api_name=False)
    for button, field in ((insert, "prompt"), (negative, "neg_prompt")):
        put = f"(...v) => {{ window.tinv?.picker?.insert('{tab}', '{field}', ...v); return []; }}"
        bridge.on(button.click, put, [chosen, strength])


def _choices(chosen: str | None) -> Any:
    """The list as it is now. What was chosen stays so, also where its label says something else of it now."""
    entries = service.current().library.entries()
    labels = {entry.label for entry in entries}
    if chosen and chosen not in labels:
        named = (e.label for e in entries if chosen.startswith(f"{e.name} — ") or e.label.startswith(f"{chosen} — "))
        chosen = next(named, None)
    return gr.update(choices=[entry.label for entry in entries], value=chosen or None)
