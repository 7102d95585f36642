"""The host adapters and the extension, against fakes of the hosts' modules."""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lib_ti.webui.extension import detect_host, get_extension
from lib_ti.webui.hosts import a1111, host_options
from lib_ti.webui.hosts.a1111 import A1111
from lib_ti.webui.hosts.forge import Forge
from lib_ti.webui.images.uploads import UploadRegistry


class Model:
    """A checkpoint in the host, on a device or in RAM."""

    def __init__(self, name, device="cuda", lowvram=False):
        self.name, self.device, self.lowvram = name, device, lowvram

    def parameters(self):
        return iter([SimpleNamespace(device=SimpleNamespace(type=self.device))])


class State:
    interrupted = stopping_generation = False
    job = ""

    def begin(self, job):
        self.job, self.interrupted, self.stopping_generation = job, False, False

    def end(self):
        self.job = ""

    def interrupt(self):
        self.interrupted = True

    def request_restart(self):
        self.interrupt()


class FakeOptions(SimpleNamespace):
    def add_option(self, key, info):
        self.labels[key] = info
        setattr(self, key, info.default)


class OptionInfo:
    def __init__(self, default=None, label="", component=None, component_args=None, onchange=None, section=None):
        self.default, self.label, self.component_args, self.onchange = default, label, component_args, onchange
        self.section, self.info_text = section, ""

    def info(self, text):
        self.info_text = text
        return self


class Lock:
    """The host's loader holds it while it loads."""

    def __init__(self):
        self.taken = 0

    def acquire(self, timeout):
        self.taken += 1
        return True

    def release(self):
        self.taken += 10


class Database:
    def __init__(self):
        self.reads = []

    def load_textual_inversion_embeddings(self, **how):
        self.reads.append(how)


@pytest.fixture
def web(monkeypatch, tmp_path):
    """Fakes of the A1111 modules that the adapter uses. `web.moves`: where models were sent, in order."""
    moves = []
    checkpoint = tmp_path / "sd.safetensors"
    choice = SimpleNamespace(title="sd.safetensors [abc]", filename=str(checkpoint))

    def send(model, device):
        moves.append((model.name, device))
        model.device = device

    models = {
        "modules.shared": {
            "opts": FakeOptions(labels={}, sd_model_checkpoint="sd"),
            "cmd_opts": SimpleNamespace(embeddings_dir=str(tmp_path / "embeddings"), hide_ui_dir_config=False),
            "state": State(),
            "hide_dirs": {"visible": True},
            "OptionInfo": OptionInfo,
        },
        "modules.call_queue": {"queue_lock": object()},
        "modules.paths_internal": {"data_path": str(tmp_path / "data")},
        "modules.devices": {"device": SimpleNamespace(type="cuda", index=None), "torch_gc": lambda: None},
        "modules.sd_models": {
            "checkpoints_list": {"sd": choice},
            "checkpoint_aliases": {"sd": choice},
            "model_data": SimpleNamespace(sd_model=None, loaded_sd_models=[], lock=Lock()),
            "send_model_to_cpu": lambda model: send(model, "cpu"),
            "send_model_to_device": lambda model: send(model, "cuda"),
        },
        "modules.sd_vae": {"resolve_vae": lambda path: SimpleNamespace(tuple=lambda: (None, None))},
        "modules.sd_hijack": {"model_hijack": SimpleNamespace(embedding_db=Database())},
        "modules.processing": {
            "StableDiffusionProcessing": SimpleNamespace(cached_c=["a", 1], cached_uc=["b", 2]),
            "StableDiffusionProcessingTxt2Img": SimpleNamespace(cached_hr_c=["c", 3, None], cached_hr_uc=[None, None]),
        },
    }
    fake = SimpleNamespace(moves=moves, checkpoint=checkpoint, path=tmp_path)
    monkeypatch.setitem(sys.modules, "modules", ModuleType("modules"))
    for name, contents in models.items():
        add_module(monkeypatch, fake, name, contents)
    monkeypatch.setattr(a1111, "RESTORE_INTERVAL_S", 0)
    return fake


@pytest.fixture
def forge(monkeypatch, web):
    """Forge's own modules beside them."""
    management = {
        "unload_all_models": lambda: web.moves.append("unloaded"),
        "soft_empty_cache": lambda: web.moves.append("emptied"),
    }
    monkeypatch.setitem(sys.modules, "backend", ModuleType("backend"))
    add_module(monkeypatch, web, "backend.memory_management", management)
    add_module(monkeypatch, web, "backend.args", {"args": SimpleNamespace(all_in_fp32=False)})
    add_module(monkeypatch, web, "modules.ui_extra_networks_textual_inversion", {"embedding_db": Database()})
    return web


def add_module(monkeypatch, web, name, contents):
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    setattr(web, name.rpartition(".")[2], module)


# Checkpoint, VAE, device


def test_detect_a1111_and_reforge(web, monkeypatch):
    assert type(detect_host()) is A1111
    assert detect_host().title == "AUTOMATIC1111"
    add_module(monkeypatch, web, "ldm_patched.modules.model_management", {})
    assert detect_host().title == "WebUI"


def test_detect_forge(forge):
    assert type(detect_host()) is Forge


def test_selected_checkpoint(web):
    choice = A1111().selected_checkpoint()
    assert (choice.title, choice.path) == ("sd.safetensors [abc]", web.checkpoint)


def test_first_checkpoint_if_the_selected_one_is_deleted(web):
    web.shared.opts.sd_model_checkpoint = "deleted.safetensors"
    assert A1111().selected_checkpoint().path == web.checkpoint


def test_no_checkpoint_is_selected(web, capsys):
    web.sd_models.checkpoints_list.clear()
    web.sd_models.checkpoint_aliases.clear()
    assert A1111().selected_checkpoint() is None
    assert A1111().selected_vae() is None
    assert capsys.readouterr().out == ""


def test_selected_vae(web, monkeypatch, caplog):
    host, file = A1111(), web.path / "vae.pt"
    assert host.selected_vae() is None
    resolved_paths = []

    def resolve(path):
        resolved_paths.append(path)
        return SimpleNamespace(tuple=lambda: (str(file), "specified in settings"))

    monkeypatch.setattr(web.sd_vae, "resolve_vae", resolve)
    assert host.selected_vae() is None  # chosen, and deleted since
    file.touch()
    assert host.selected_vae() == file
    assert resolved_paths == [str(web.checkpoint)] * 2
    monkeypatch.delattr(web.sd_vae, "resolve_vae")
    assert host.selected_vae() is None
    assert "Could not ask for the VAE: AttributeError" in caplog.text


def test_forge_vae_among_additional_modules(forge):
    def tensors(name, *keys):
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header = json.dumps(dict.fromkeys(keys, empty)).encode()
        path = forge.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        return str(path)

    clip = tensors("clip.safetensors", "text_model.encoder.layers.0.mlp.fc1.weight")
    one, two = (tensors(f"{n}.safetensors", "decoder.conv_in.weight") for n in (1, 2))
    pickled, t5 = tensors("vae.pt"), tensors("text_encoder/t5.bin")
    cut = forge.path / "cut.safetensors"
    cut.write_bytes(b"\xff" * 20)
    host = Forge()
    for listed, expected in [
        ([], None),
        ([clip], None),
        ([one, clip], one),
        ([one, two], two),
        ([one, str(cut), str(forge.path / "gone.safetensors")], one),
        ([pickled, t5], pickled),
        ([str(forge.path / "gone.pt")], None),
    ]:
        forge.shared.opts.forge_additional_modules = listed
        assert host.selected_vae() == (Path(expected) if expected else None)
    del forge.shared.opts.forge_additional_modules
    assert host.selected_vae() is None


def test_clip_skip(web):
    for value, expected in [(2, 2), (1, 1), (0, 1), ("2", 1)]:
        web.shared.opts.CLIP_stop_at_last_layers = value
        assert A1111().clip_skip() == expected
    del web.shared.opts.CLIP_stop_at_last_layers
    assert A1111().clip_skip() == 1


@pytest.mark.parametrize(
    ("kind", "index", "expected"),
    [("cuda", None, "cuda:0"), ("cuda", 1, "cuda:1"), ("cpu", None, "cpu"), ("mps", None, "auto")],
)
def test_device(web, kind, index, expected):
    web.devices.device = SimpleNamespace(type=kind, index=index)
    assert A1111().device() == expected


def test_full_precision_flags_are_ignored_on_a_cpu(forge):
    assert (A1111().precision(), Forge().precision()) == ("auto", "auto")
    forge.args.args.all_in_fp32 = True
    assert (A1111().precision(), Forge().precision()) == ("auto", "fp32")
    forge.shared.cmd_opts.no_half = True
    assert A1111().precision() == "fp32"
    forge.devices.device = SimpleNamespace(type="cpu")
    assert A1111().precision() == "auto"


# Settings and folders


def test_embeddings_and_runs_folders(web):
    host = A1111()
    assert host.embeddings_dir == web.path / "embeddings"
    assert host.runs_dir == web.path / "data" / "textual_inversion"
    web.shared.opts.embeddings_dir = str(web.path / "elsewhere")
    assert host.embeddings_dir == web.path / "elsewhere"
    web.shared.opts.tinv_runs_folder = ' "mine" '
    assert host.runs_dir == web.path / "data" / "mine"
    web.shared.opts.tinv_runs_folder = str(web.path / "runs")
    assert host.runs_dir == web.path / "runs"
    assert not host.hides_paths
    web.shared.cmd_opts.hide_ui_dir_config = True
    assert host.hides_paths


def test_host_options(web):
    host = A1111()
    assert host.keep_snapshots
    assert host.keep_images
    changed = []
    host_options.add_options(lambda: changed.append(1))
    labels = web.shared.opts.labels
    assert {key: info.default for key, info in labels.items()} == {
        "tinv_runs_folder": "", "tinv_keep_snapshots": True, "tinv_keep_pictures": True, "tinv_names": "",
    }  # fmt: skip
    assert {info.section for info in labels.values()} == {("textual_inversion_trainer", "Textual Inversion")}
    assert all(info.info_text for info in labels.values())
    assert labels["tinv_runs_folder"].component_args is web.shared.hide_dirs
    labels["tinv_runs_folder"].onchange()
    assert changed == [1]
    web.shared.opts.tinv_keep_snapshots = web.shared.opts.tinv_keep_pictures = False
    assert not host.keep_snapshots
    assert not host.keep_images
    web.shared.opts.tinv_runs_folder = None  # a settings file that someone has edited
    assert host.runs_dir == web.path / "data" / "textual_inversion"


# GPU handover


def test_models_are_offloaded_and_restored(web):
    """One that the host keeps in RAM stays there: it must not come to the card afterwards."""
    current, other, in_ram = Model("current"), Model("other"), Model("in RAM", device="cpu")
    web.sd_models.model_data.sd_model = current
    web.sd_models.model_data.loaded_sd_models = [current, other, in_ram]
    with A1111().gpu_lent("my-mug"):
        assert web.shared.state.job == "Textual Inversion: my-mug"
        assert web.moves == [("current", "cpu"), ("other", "cpu")]
    assert web.moves[2:] == [("other", "cuda"), ("current", "cuda")]
    assert web.shared.state.job == ""


def test_lowvram_model_is_offloaded_too(web):
    web.sd_models.model_data.sd_model = Model("low", device="cpu", lowvram=True)
    with A1111().gpu_lent("w"):
        assert web.moves == [("low", "cpu")]
    assert web.moves[1:] == [("low", "cuda")]


def test_no_model_is_loaded_for_a_handover(web):
    """Nor while the host is still loading its first: that is waited for, since it would come to the card."""
    data = web.sd_models.model_data
    with A1111().gpu_lent("w"):
        assert web.moves == []
    assert data.lock.taken == 11
    data.sd_model = Model("current")
    with A1111().gpu_lent("w"):
        pass
    assert data.lock.taken == 11


def test_model_is_restored_after_a_failed_training(web):
    web.sd_models.model_data.sd_model = Model("current")

    def fail():
        with A1111().gpu_lent("w"):
            raise RuntimeError("training")

    with pytest.raises(RuntimeError, match="training"):
        fail()
    assert web.moves == [("current", "cpu"), ("current", "cuda")]
    assert web.shared.state.job == ""


def test_partly_offloaded_model_is_restored(web, caplog):
    """The training goes on with what memory there is."""
    current, other = Model("current"), Model("other")
    web.sd_models.model_data.sd_model = current
    web.sd_models.model_data.loaded_sd_models = [current, other]
    send = web.sd_models.send_model_to_cpu

    def fail_half_way(model):
        if model is current:
            raise MemoryError("no room in RAM")
        send(model)

    web.sd_models.send_model_to_cpu = fail_half_way
    with A1111().gpu_lent("w"):
        assert web.moves == [("other", "cpu")]
    assert web.moves[1:] == [("other", "cuda"), ("current", "cuda")]
    assert "Could not move the host's model off the GPU: MemoryError: no room in RAM" in caplog.text


def test_offloaded_models_are_restored_after_ctrl_c(web):
    current, other = Model("current"), Model("other")
    web.sd_models.model_data.sd_model = current
    web.sd_models.model_data.loaded_sd_models = [current, other]
    send = web.sd_models.send_model_to_cpu

    def press_ctrl_c(model):
        if model is other:
            raise KeyboardInterrupt
        send(model)

    web.sd_models.send_model_to_cpu = press_ctrl_c
    with pytest.raises(KeyboardInterrupt), A1111().gpu_lent("w"):
        pytest.fail("lent although interrupted")
    assert web.moves == [("current", "cpu"), ("other", "cuda"), ("current", "cuda")]
    assert web.shared.state.job == ""


@pytest.mark.parametrize(("failures", "back"), [(2, True), (99, False)])
def test_model_restore_is_retried_when_out_of_memory(web, caplog, failures, back):
    current, other = Model("current"), Model("other")
    web.sd_models.model_data.sd_model = current
    web.sd_models.model_data.loaded_sd_models = [current, other]
    send, tries = web.sd_models.send_model_to_device, []

    def full(model):
        tries.append(model.name)
        if model is current and tries.count("current") <= failures:
            raise RuntimeError("CUDA out of memory")
        send(model)

    web.sd_models.send_model_to_device = full
    with A1111().gpu_lent("w"):
        pass
    assert (("current", "cuda") in web.moves) == back
    assert ("other", "cuda") in web.moves
    assert ("choose the checkpoint again" in caplog.text) != back
    assert web.shared.state.job == ""


def test_missing_offload_functions_are_logged(web, caplog):
    web.shared.state = SimpleNamespace()
    del web.sd_models.send_model_to_cpu
    web.sd_models.model_data.sd_model = Model("current")
    with A1111().gpu_lent("w") as interrupted:
        assert not interrupted()
    assert web.moves == [("current", "cuda")]
    assert caplog.text.count("Could not") == 4


def test_interrupt_is_remembered(web):
    state = web.shared.state
    state.interrupted = True  # from before
    with A1111().gpu_lent("w") as interrupted:
        assert not interrupted()
        state.interrupt()
        assert interrupted()
        state.interrupted = False  # as the host does after any other call
        assert interrupted()
    with A1111().gpu_lent("w") as interrupted:
        assert not interrupted()
        state.stopping_generation = True
        assert interrupted()


def test_reload_ui_does_not_interrupt(web):
    state = web.shared.state
    with A1111().gpu_lent("w") as interrupted:
        state.request_restart()
        assert not interrupted()
        state.interrupt()
        assert interrupted()
    state.interrupted = False
    state.request_restart()
    assert state.interrupted


def test_forge_unloads_models(forge):
    with Forge().gpu_lent("w"):
        assert forge.moves == ["unloaded", "emptied"]
        assert forge.shared.state.job
    assert forge.moves == ["unloaded", "emptied"]
    assert forge.shared.state.job == ""


def test_reforge_unloads_models(web, monkeypatch):
    management = {"unload_all_models": lambda: web.moves.append("unloaded"), "soft_empty_cache": lambda: None}
    add_module(monkeypatch, web, "ldm_patched.modules.model_management", management)
    web.sd_models.model_data.sd_model = Model("current")
    with A1111().gpu_lent("w"):
        pass
    assert web.moves == ["unloaded"]


def test_forge_without_unload_function_is_logged(forge, caplog):
    del forge.memory_management.unload_all_models
    with Forge().gpu_lent("w"):
        pass
    assert "Could not move the host's models off the GPU: AttributeError" in caplog.text
    assert forge.shared.state.job == ""


# Embeddings


def caches(web):
    processing = web.processing
    return [
        *vars(processing.StableDiffusionProcessing).values(),
        *vars(processing.StableDiffusionProcessingTxt2Img).values(),
    ]


def test_embeddings_are_reloaded_and_prompt_caches_cleared_in_place(web):
    lists = caches(web)
    web.sd_models.model_data.sd_model = Model("current")
    A1111().reload_embeddings(["my-mug"])
    assert web.sd_hijack.model_hijack.embedding_db.reads == [{"force_reload": True}]
    assert [cache[0] for cache in lists] == [None] * 4
    assert all(now is before for now, before in zip(caches(web), lists, strict=True))


def test_nothing_is_reloaded_without_a_model(web):
    A1111().reload_embeddings([])
    assert web.sd_hijack.model_hijack.embedding_db.reads == []
    assert [cache[0] for cache in caches(web)] == [None] * 4


def test_forge_reloads_every_embedding_database(forge):
    """Also when one of them fails, and with the stand-in that Forge has before its first generation."""
    engines = {f"text_processing_engine{end}": SimpleNamespace(embeddings=Database()) for end in ("", "_l", "_g")}
    broken = SimpleNamespace(embeddings=SimpleNamespace(load_textual_inversion_embeddings=lambda: 1 / 0))
    t5 = SimpleNamespace()
    forge.sd_models.model_data.sd_model = SimpleNamespace(
        text_processing_engine_x=broken, text_processing_engine_t5=t5, other=SimpleNamespace(embeddings=1), **engines
    )
    Forge().reload_embeddings(["my-mug"])
    assert [engine.embeddings.reads for engine in engines.values()] == [[{}]] * 3
    cards = forge.ui_extra_networks_textual_inversion.embedding_db
    assert cards.reads == [{"force_reload": True, "sync_with_sd_model": False}]
    assert [cache[0] for cache in caches(forge)] == [None] * 4
    for model in (None, SimpleNamespace(cond_stage_model=None)):
        forge.sd_models.model_data.sd_model = model
        Forge().reload_embeddings([])
    assert len(cards.reads) == 3


def test_missing_reload_functions_are_logged(web, caplog):
    web.sd_models.model_data.sd_model = Model("current")
    del web.sd_hijack.model_hijack.embedding_db
    del web.processing.StableDiffusionProcessingTxt2Img
    caplog.set_level(logging.WARNING)
    A1111().reload_embeddings(["my-mug"])
    assert caplog.text.count("Could not") == 2


# The extension


@pytest.fixture
def callbacks(web, monkeypatch):
    """The callbacks that the extension registers, by kind. Its training service is a fake."""
    called = {}
    register = {
        f"on_{name}": lambda function, name=name: called.__setitem__(name, function)
        for name in ("ui_settings", "ui_tabs", "app_started")
    }
    add_module(monkeypatch, web, "modules.script_callbacks", register)
    get_extension().service = SimpleNamespace(
        private_paths=lambda: ["/data/runs"], actions=lambda: {}, uploads=UploadRegistry(), redact=lambda reply: reply,
        restore_queue=lambda: None,
    )  # fmt: skip
    get_extension().register()
    return called


def test_registered_callbacks(callbacks, web):
    callbacks["ui_settings"]()
    assert "tinv_runs_folder" in web.shared.opts.labels
    assert callbacks.keys() == {"ui_settings", "ui_tabs", "app_started"}


def test_callbacks_are_registered_through_the_callback_map(callbacks, web):
    callback_map = {f"callbacks_{kind}": [] for kind in ("ui_settings", "ui_tabs")}  # a host without the third
    web.script_callbacks.callback_map = callback_map

    def add_callback(registered, function, *, name=None, category="unknown", filename=None):
        assert Path(filename).is_file()
        registered.append((function, category))

    web.script_callbacks.add_callback = add_callback
    callbacks.clear()
    get_extension().register()
    assert callback_map == {
        "callbacks_ui_settings": [(get_extension().add_settings, "ui_settings")],
        "callbacks_ui_tabs": [(get_extension().build_tab, "ui_tabs")],
    }
    assert callbacks == {"app_started": get_extension().on_app_started}


def test_runs_folder_is_blocked_in_gradio(callbacks, web):
    from fastapi import FastAPI

    demo = SimpleNamespace(blocked_paths=["/secret"])
    for _ in range(2):
        callbacks["app_started"](demo, FastAPI())
        assert demo.blocked_paths == ["/data/runs", "/secret"]
    web.shared.demo = SimpleNamespace()
    callbacks["ui_settings"]()
    web.shared.opts.labels["tinv_runs_folder"].onchange()
    assert web.shared.demo.blocked_paths == ["/data/runs"]


def test_queue_of_an_earlier_start_is_restored(callbacks):
    from fastapi import FastAPI

    restored = []
    get_extension().service.restore_queue = lambda: restored.append(True)
    callbacks["app_started"](None, FastAPI())
    assert restored


def test_rest_routes_need_the_api_flag(callbacks, web):
    from fastapi import FastAPI

    def paths():
        app = FastAPI()
        callbacks["app_started"](None, app)
        return {route.path for route in app.routes if route.path.startswith("/tinv")}

    assert not paths()
    web.shared.cmd_opts.api = True
    assert "/tinv/v1/runs" in paths()
    web.shared.cmd_opts.api, web.shared.cmd_opts.nowebui = False, True
    assert "/tinv/v1/runs" in paths()


def script(web, monkeypatch):
    """The names in the namespace of the script, executed as the hosts do."""
    add_module(monkeypatch, web, "modules.scripts", {"Script": type("Script", (), {}), "AlwaysVisible": object()})
    sys.modules["modules"].scripts = web.scripts
    path = Path(__file__).resolve().parent.parent / "scripts" / "textual_inversion.py"
    names = {"__file__": str(path), "__name__": "textual_inversion.py"}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), names)
    return names


def test_script_registers_callbacks_and_picker(callbacks, web, monkeypatch):
    callbacks.clear()
    before = list(sys.path)
    names = script(web, monkeypatch)
    assert callbacks.keys() == {"ui_settings", "ui_tabs", "app_started"}
    assert sys.path == before
    built = []
    monkeypatch.setattr(get_extension(), "build_picker", built.append)
    picker = names["TextualInversionPicker"]()
    assert isinstance(picker, web.scripts.Script)
    assert picker.title() == "Textual Inversion"
    assert picker.show(True) is picker.show(False) is web.scripts.AlwaysVisible
    assert picker.ui(True) == picker.ui(False) == []
    assert built == [True, False]


def test_extension_outlives_reload_ui(callbacks, web, monkeypatch):
    """The host executes the script again; the service, and with it a running training, stays."""
    extension, service = get_extension(), get_extension().service
    names = script(web, monkeypatch)
    assert names["extension"] is extension is web.shared.textual_inversion_extension
    assert extension.service is service
    assert callbacks["app_started"] == extension.on_app_started


def test_foreign_lib_ti_package_disables_the_extension(callbacks, web, monkeypatch, tmp_path, capsys):
    callbacks.clear()
    other = ModuleType("lib_ti")
    other.__path__ = [str(tmp_path / "other" / "lib_ti")]
    monkeypatch.setitem(sys.modules, "lib_ti", other)
    assert "TextualInversionPicker" not in script(web, monkeypatch)
    output = capsys.readouterr().out
    assert str(tmp_path / "other" / "lib_ti") in output
    assert output.count("\n") == 1
    assert not callbacks
