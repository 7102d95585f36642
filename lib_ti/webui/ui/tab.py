"""The layout of the tab: the fields, and empty elements for the page's JavaScript to fill.

Whatever changes during a training (status, images, previews, chart, earlier runs) is drawn by the scripts in `javascript/` from
the service's replies, so that nothing flickers and a reloaded page shows the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from lib_ti.webui.api.bridge import Action, add_endpoint, run_script_on
from lib_ti.webui.security.redaction import Redact, unchanged
from lib_ti.webui.ui.example_pictures import example_pictures
from lib_ti.webui.ui.form import PRESETS, Form

HEADER = """
<div class="tinv-header" id="tinv_header">
  <div>
    <h2>Teach the model a new word from 3–30 pictures.</h2>
    <p>Pictures stay on this computer. Ask before using photos of people.</p>
  </div>
  <button type="button" class="tinv-button" id="tinv_example">Fill in an example</button>
</div>
<div id="tinv_undo" class="tinv-undo tinv-hidden" data-hidden-by="unavailable" role="status"></div>
"""

IMAGES = """
<div class="tinv-panel" id="tinv_images">
<h3><span class="tinv-number">1</span><span>Pictures</span></h3>
<label class="tinv-drop" id="tinv_drop">
  <input type="file" multiple accept="image/*,.txt" aria-describedby="tinv_drop_hint">
  <span class="tinv-drop-title">Drop pictures here, or click to choose</span>
  <span class="tinv-hint" id="tinv_drop_hint">4 are enough to start. Show the same thing each time; \
vary background, light and angle.</span>
</label>
<div class="tinv-note" id="tinv_pictures_note"></div>
<ul class="tinv-pictures" id="tinv_pictures_list" aria-label="Your pictures"></ul>
<details class="tinv-folder tinv-hidden" id="tinv_all_captions" data-hidden-by="unavailable">
  <summary>Captions for all pictures</summary>
  <div class="tinv-row tinv-hidden" id="tinv_captioners" data-hidden-by="unavailable"></div>
  <div class="tinv-row" id="tinv_captions_edit">
    <input type="text" class="tinv-input" data-part="find" aria-label="Find in all captions" placeholder="Find">
    <input type="text" class="tinv-input" data-part="replace" aria-label="Replace with" placeholder="Replace with">
    <input type="text" class="tinv-input" data-part="prefix" aria-label="Add before every caption" placeholder="Add before">
    <input type="text" class="tinv-input" data-part="suffix" aria-label="Add after every caption" placeholder="Add after">
    <button type="button" class="tinv-button" id="tinv_captions_apply">Change all</button>
    <button type="button" class="tinv-link tinv-hidden" id="tinv_captions_undo" data-hidden-by="unavailable">Undo</button>
  </div>
  <p class="tinv-note" id="tinv_captions_note" role="status"></p>
</details>
<div class="tinv-row tinv-pictures-footer">
  {folder}
  <button type="button" class="tinv-link tinv-hidden" id="tinv_clear" data-hidden-by="unavailable">Remove all pictures</button>
</div>
</div>
"""

FOLDER = """
<details class="tinv-folder" id="tinv_folder">
  <summary>Add a folder on the server</summary>
  <div class="tinv-row">
    <input type="text" id="tinv_folder_path" aria-label="Folder on the server" placeholder="Folder on the server">
    <button type="button" class="tinv-button" id="tinv_folder_add">Add pictures</button>
  </div>
</details>
"""

RUN = """
<div class="tinv-panel" id="tinv_run">
<div id="tinv_status">
  <div class="tinv-status" data-state="idle" data-step="0">
    <div class="tinv-status-line">
      <span class="tinv-state-mark" aria-hidden="true"></span><span id="tinv_status_text">Ready</span>
    </div>
    <div class="tinv-metrics" id="tinv_facts"></div>
    <div class="tinv-note" id="tinv_status_note"></div>
  </div>
</div>
<div id="tinv_progress" class="tinv-progress" role="progressbar" aria-label="Training" aria-valuemin="0"
  aria-valuemax="100" aria-valuenow="0"><div class="tinv-progress-bar"></div></div>
<div class="tinv-visually-hidden" id="tinv_announce" aria-live="polite"></div>
<div id="tinv_queue" class="tinv-hidden" data-hidden-by="unavailable"></div>
<div id="tinv_warnings" role="group" aria-label="Warnings"></div>
<div id="tinv_result" class="tinv-card tinv-hidden" data-hidden-by="unavailable"></div>
<div id="tinv_tests" class="tinv-hidden" data-hidden-by="unavailable"></div>
<div id="tinv_try_panel" class="tinv-hidden" data-hidden-by="unavailable"></div>
<div id="tinv_next" class="tinv-hidden" data-hidden-by="unavailable"></div>
<div id="tinv_learning" class="tinv-hidden" data-hidden-by="unavailable"></div>
<div class="tinv-previews-head">
  <h4>Previews</h4>
  <button type="button" class="tinv-button" id="tinv_sample_now" disabled>Sample now</button>
</div>
<div id="tinv_best" class="tinv-note"></div>
<div id="tinv_own_pictures" class="tinv-hidden" data-hidden-by="unavailable"></div>
<div id="tinv_previews_gallery" class="tinv-previews"></div>
{example}
<details class="tinv-details" id="tinv_details">
  <summary>Details</summary>
  <div id="tinv_validation"></div>
  <div id="tinv_loss"></div>
  <div id="tinv_movement"></div>
</details>
</div>
"""

SWEEP = """
<details class="tinv-details" id="tinv_sweep">
  <summary>Try several</summary>
  <p class="tinv-hint">Trains the word once for each combination and compares the results.
    Separate values with commas. Empty fields keep the value above.</p>
  <div id="tinv_sweep_fields"></div>
  <div class="tinv-row">
    <button type="button" class="tinv-button" id="tinv_sweep_start" disabled>Train all</button>
    <span class="tinv-note" id="tinv_sweep_note" role="status"></span>
  </div>
  <div id="tinv_sweeps"></div>
</details>
"""

SUGGEST = """
<div id="tinv_suggest">
  <button type="button" class="tinv-button" id="tinv_suggest_button">Suggest</button>
  <div class="tinv-note" id="tinv_suggest_note" role="status">Ranks ordinary words by how well they fit your pictures.</div>
  <ol class="tinv-suggestions tinv-hidden" id="tinv_suggestions" data-hidden-by="unavailable"
    aria-label="Start words, the best first"></ol>
</div>
"""

TRAINER_VIEW = """
<details class="tinv-details" id="tinv_seen">
  <summary>What the trainer sees</summary>
  <div id="tinv_sequence"></div>
  <div id="tinv_crops"></div>
</details>
"""

CHECKLIST = """
<ul id="tinv_checklist" class="tinv-checklist" aria-label="What the training needs">
  <li data-item="images"></li>
  <li data-item="name"></li>
  <li data-item="settings" class="tinv-hidden" data-hidden-by="unavailable"></li>
  <li data-item="cost"><span class="tinv-mark tinv-ok"><span class="tinv-icon tinv-icon-check" aria-hidden="true"></span></span>
    <span id="tinv_estimate" role="status"></span></li>
</ul>
"""

ADVANCED_SECTIONS = ("Picture handling", "Learning", "Validation", "Memory", "Previews", "Saving", "Word", "Model")
"""The sections of the Advanced accordion; the last two hold the fields that are not in the visible part."""


def build(actions: Mapping[str, Action], hides_paths: bool, redact: Redact = unchanged) -> Any:
    """The tab as `gr.Blocks`. `hides_paths`: the browser must not name folders of the server; `redact`: of replies."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        form = Form(hides_paths)
        _html(HEADER)
        with gr.Row(elem_id="tinv_columns"):
            with gr.Column(scale=1, min_width=320, elem_id="tinv_left"):
                preset = _left_column(form, hides_paths)
            with gr.Column(scale=1, min_width=320, elem_id="tinv_right"):
                _html(RUN.format(example=example_pictures()))
        _html('<section id="tinv_earlier"><h3>Earlier trainings</h3><div id="tinv_runs"></div></section>')
        gr.HTML(f'<div id="tinv_schema" data-schema="{escape(form.schema())}"></div>', elem_classes=["tinv-hidden"])
        _connect_fields([*form.fields().values(), preset])
        add_endpoint(actions, redact)
    return blocks


def _left_column(form: Form, hides_paths: bool) -> Any:
    _html(IMAGES.format(folder="" if hides_paths else FOLDER))
    with gr.Column(elem_id="tinv_word", elem_classes=["tinv-panel"]):
        _html('<h3><span class="tinv-number">2</span><span>Word</span></h3>')
        form.add("name")
        _html('<div id="tinv_name_note" class="tinv-note" role="status"></div>')
        form.add("kind", "init_text")
        _html(SUGGEST)
        form.add("consent")
        _html('<div id="tinv_checkpoint" class="tinv-note" role="status"></div>')
    with gr.Column(elem_id="tinv_length", elem_classes=["tinv-panel"]):
        _html('<h3><span class="tinv-number">3</span><span>How long</span></h3>')
        preset = gr.Radio(
            choices=list(PRESETS.values()), value=PRESETS["balanced"], label="How long", show_label=False,
            elem_id="tinv_preset",
        )  # fmt: skip
        preset.do_not_save_to_config = True
        _html('<div id="tinv_reset_note" class="tinv-note"></div>')
        with gr.Row(elem_id="tinv_basics", elem_classes=["tinv-fields"]):
            form.add("steps", "learning_rate", "vectors", "batch_size")
    with gr.Accordion("Advanced", open=False, elem_id="tinv_advanced"):
        _html(
            '<div class="tinv-row"><input type="search" id="tinv_search" aria-label="Find a setting"'
            ' placeholder="Find a setting"><button type="button" class="tinv-link" id="tinv_reset_all">Reset all</button></div>'
            '<p class="tinv-note" id="tinv_search_note" role="status"></p>'
        )
        for title in ADVANCED_SECTIONS:
            with gr.Column(elem_classes=["tinv-group"]):
                _html(f"<h4>{title}</h4>")
                with gr.Row(elem_classes=["tinv-fields"]):
                    form.add(*form.section(title))
    _html(SWEEP)
    _html(TRAINER_VIEW)
    with gr.Column(elem_id="tinv_go"):
        _html(CHECKLIST)
        with gr.Row(elem_id="tinv_buttons"):
            gr.Button("Train", variant="primary", elem_id="tinv_train")
            gr.Button("Stop", variant="stop", elem_id="tinv_stop")
            gr.Button("Try it", variant="primary", elem_id="tinv_try")
            gr.Button("Resume", elem_id="tinv_resume")
        _html('<div id="tinv_problems" role="alert"></div>')
    return preset


def _html(content: str) -> None:
    """Add HTML that sets its ids itself: gradio 3.41 gives an `elem_id` to two elements."""
    gr.HTML(content, elem_classes=["tinv-html"])


def _connect_fields(fields: list[Any]) -> None:
    """Let the page's JavaScript read and write the fields and observe their changes."""
    read, write = (gr.Button(visible=False, elem_id=f"tinv_{verb}_fields") for verb in ("read", "write"))
    run_script_on(read.click, "(...values) => window.tinv.form.receiveValues(values)", fields)
    run_script_on(write.click, "(...values) => window.tinv.form.valuesToWrite(values)", fields, fields)
    for field in fields:
        run_script_on(field.change, "() => window.tinv.form.onChange()", [])
