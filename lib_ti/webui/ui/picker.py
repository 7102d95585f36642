"""The list of embeddings in txt2img and img2img: select one, and insert it into the prompt.

What the browser can do alone it does (tinv_picker.js). Python only supplies the list: an event with the dropdown's value as an
input would be refused once the value is not in the list that Python remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from lib_ti.webui.api.bridge import run_script_on
from lib_ti.webui.embedding_index import Entry

PREVIEW = """
<div class="tinv-picker-shown">
  <div id="{tab}_tinv_thumb" class="tinv-picker-thumb"></div>
  <div id="{tab}_tinv_note" class="tinv-note" role="status" aria-live="polite"></div>
</div>
"""


def build(tab: str, entries: Callable[[], Sequence[Entry]]) -> None:
    """Build the picker of a tab, "txt2img" or "img2img". To be called within `gr.Blocks`."""
    with gr.Accordion("Embeddings", open=False, elem_id=f"{tab}_tinv_accordion"):
        with gr.Row(elem_classes=["tinv-picker-row"]):
            dropdown = gr.Dropdown([], label="Embedding", elem_id=f"{tab}_tinv_picker", scale=4, interactive=True)
            strength = gr.Textbox(
                "1", label="Strength", elem_id=f"{tab}_tinv_strength", max_lines=1, scale=1, min_width=80
            )
            refresh = gr.Button(
                "Refresh", elem_id=f"{tab}_tinv_refresh", elem_classes=["tool", "tinv-refresh"], scale=0, min_width=40
            )
        with gr.Row(elem_classes=["tinv-picker-row"]):
            insert = gr.Button("Add to prompt", elem_id=f"{tab}_tinv_insert", min_width=120)
            insert_negative = gr.Button("Add to negative", elem_id=f"{tab}_tinv_insert_negative", min_width=120)
        preview = gr.HTML(PREVIEW.format(tab=tab))
        selected = gr.Textbox(visible=False)  # the dropdown's value, as an input that Python does not check
    for component in (dropdown, strength, refresh, insert, insert_negative, preview, selected):
        component.do_not_save_to_config = True  # the hosts would write them into their ui-config.json
    on_change = f"(v) => {{ window.tinv?.picker?.choose('{tab}', v); return [v]; }}"
    run_script_on(dropdown.change, on_change, [dropdown], [selected])

    def refresh_choices(label: str | None) -> Any:
        return _refreshed_choices(entries(), label)

    refresh.click(refresh_choices, [selected], [dropdown], queue=False, show_progress="hidden", api_name=False)
    for button, prompt in ((insert, "prompt"), (insert_negative, "neg_prompt")):
        on_click = f"(...v) => {{ window.tinv?.picker?.insert('{tab}', '{prompt}', ...v); return []; }}"
        run_script_on(button.click, on_click, [dropdown, strength])


def _refreshed_choices(entries: Sequence[Entry], selected: str | None) -> Any:
    """The current list; the selection stays on its embedding, even if the embedding's label has changed."""
    labels = [entry.label for entry in entries]
    if selected and selected not in labels:
        matches = (
            e.label for e in entries if selected.startswith(f"{e.name} — ") or e.label.startswith(f"{selected} — ")
        )
        selected = next(matches, None)
    return gr.update(choices=labels, value=selected or None)
