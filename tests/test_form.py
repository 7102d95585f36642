"""The form and the tab: every option has its place, its help and its id, on whatever gradio is installed."""

import json
import re
from html import unescape

import pytest

gr = pytest.importorskip("gradio")

from lib_ti.cli.arguments import option_help  # noqa: E402
from lib_ti.model.checkpoint.families import FAMILIES  # noqa: E402
from lib_ti.settings.parsing import parse  # noqa: E402
from lib_ti.settings.train_settings import DEFAULTS, OPTIONS, REQUIRED, TYPES  # noqa: E402
from lib_ti.webui.ui import form, tab  # noqa: E402

CONTRACT = {
    "tinv_images", "tinv_name", "tinv_kind", "tinv_init_text", "tinv_preset", "tinv_steps", "tinv_learning_rate",
    "tinv_vectors", "tinv_batch_size", "tinv_resolution", "tinv_seed", "tinv_preview_every", "tinv_preview_prompts",
    "tinv_train", "tinv_stop", "tinv_resume", "tinv_sample_now", "tinv_status", "tinv_progress", "tinv_loss",
    "tinv_previews_gallery", "tinv_problems", "tinv_runs",
}  # fmt: skip


def tab_components(hides_paths=False):
    """The components of the tab."""
    return list(tab.build({}, hides_paths).blocks.values())


def ids(components):
    """Every element id, those within HTML too."""
    element_ids = [c.elem_id for c in components if c.elem_id]
    for component in components:
        if isinstance(component, gr.HTML):
            element_ids += re.findall(r'\bid="([^"]+)"', component.value)
    return element_ids


def schema(components):
    (html,) = (c.value for c in components if isinstance(c, gr.HTML) and "data-schema" in c.value)
    return json.loads(unescape(re.search(r'data-schema="([^"]*)"', html)[1]))


def test_every_option_has_a_field_or_is_decided_by_the_server():
    assert set(form.field_names(False)) == set(OPTIONS) - form.SERVER_OPTIONS - form.IMPLIED_OPTIONS | {
        form.KEEP_GENERATING
    }
    assert set(OPTIONS) >= form.SERVER_OPTIONS | form.SERVER_PATH_OPTIONS
    assert set(form.LABELS) | set(form.HELP) | form.FULL_WIDTH | set(form.PLACEHOLDER_TEXTS) <= set(
        form.field_names(False)
    )


def test_no_path_fields_if_the_host_hides_paths():
    assert set(form.field_names(False)) - set(form.field_names(True)) == form.SERVER_PATH_OPTIONS
    assert not any("tinv_folder" in i for i in ids(tab_components(hides_paths=True)))
    assert {"tinv_template_file", "tinv_init_embedding"}.isdisjoint(ids(tab_components(hides_paths=True)))


@pytest.mark.parametrize("hides_paths", [False, True])
def test_every_field_is_in_the_tab_once(hides_paths):
    components = tab_components(hides_paths)
    for name in form.field_names(hides_paths):
        (component,) = (c for c in components if c.elem_id == form.element_id(name))
        assert component.label == form.label(name)
        assert component.info == form.help_text(name)
        assert component.do_not_save_to_config
        assert "tinv-field" in component.elem_classes


def test_element_ids():
    element_ids = ids(tab_components())
    assert set(element_ids) >= CONTRACT
    assert len(set(element_ids)) == len(element_ids)
    assert all(i.startswith("tinv_") and not i.endswith("_results") for i in element_ids)
    status = next(c.value for c in tab_components() if isinstance(c, gr.HTML) and "tinv_status" in c.value)
    assert 'data-state="idle"' in status
    assert 'data-step="0"' in status


def test_labels_are_unique():
    labels = [form.label(name) for name in form.field_names(False)]
    assert len(set(labels)) == len(labels)


def test_empty_form_gives_the_defaults():
    given = {name: value for name, value in form.default_values(False).items() if name in TYPES and value != ""}
    given |= dict.fromkeys(REQUIRED, "x")
    settings, problems = parse(given)
    assert problems == []
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


def test_fields_show_the_defaults():
    components = {c.elem_id: c for c in tab_components()}
    for name, default in form.default_values(False).items():
        component = components[form.element_id(name)]
        assert component.value == form.CHOICE_LABELS.get(name, {}).get(default, default)
        if name in OPTIONS and OPTIONS[name].low is not None and TYPES[name] != tuple[int, ...]:
            assert isinstance(component, gr.Textbox)
            assert component.max_lines == 1


def test_help_has_unit_range_and_default():
    assert form.help_text("vectors").endswith("1–75 vectors; default 3.")
    assert form.help_text("steps").endswith("1 or more steps; default 500.")
    assert form.help_text("resolution").endswith("64–4096 pixels; default auto.")
    assert form.help_text("clip_at").endswith("Above 0; default 1.")
    assert all(re.search(r"[.?]$", form.help_text(name)) for name in form.field_names(False))
    assert "give it again" not in "".join(map(form.help_text, form.field_names(False)))


def test_schema_lists_the_fields_in_order():
    components = tab_components()
    field_schemas = schema(components)["fields"]
    assert [field["name"] for field in field_schemas] == list(form.field_names(False))
    assert {field["id"] for field in field_schemas} <= set(ids(components))
    kinds = {field["name"]: field["holds"] for field in field_schemas}
    assert (kinds["flip"], kinds["kind"], kinds["seed"]) == ("switch", "choice", "text")
    assert (kinds["preview_prompt"], kinds["preview_seed"], kinds["template_file"]) == ("lines", "lines", "path")
    assert next(field["words"] for field in field_schemas if field["name"] == "kind") == form.CHOICE_LABELS["kind"]


def test_options_for_some_families_name_them():
    """They are declared once, by the names of families that there are."""
    field_schemas = {field["name"]: field["families"] for field in schema(tab_components())["fields"]}
    some = {name for name, option in OPTIONS.items() if option.families}
    assert (
        {name for name, families in field_schemas.items() if families} == some == {"learning_rate_2", "train_encoders"}
    )
    for name in some:
        assert set(OPTIONS[name].families) < {family.name for family in FAMILIES}
        assert form.help_text(name).endswith("SDXL only.")
        assert option_help(name, OPTIONS[name]).startswith("SDXL only: ")
        assert [OPTIONS[name].applies_to(family) for family in ("sd1", "sd2", "sdxl", None)] == [
            False,
            False,
            True,
            False,
        ]
    assert OPTIONS["steps"].applies_to(None)


def test_every_choice_has_a_label():
    for name, words in form.CHOICE_LABELS.items():
        assert set(words) == set(OPTIONS[name].choices)
    assert set(schema(tab_components())["presets"]) == {"quick", "balanced", "thorough", "custom"}


def test_layout_without_a_field_is_refused():
    with gr.Blocks():
        fields = form.Form(hides_paths=False)
        fields.add("name")
        with pytest.raises(ValueError, match="no place in the form for kind"):
            fields.fields()
