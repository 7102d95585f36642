"""The compared programs: how each is located, prepared and started."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from own_program import OwnProgram
from program import ROOT, GatedProgram, Program, ProgramFailed

sys.path.insert(0, str(ROOT))

MAX_STEPS = 1_000_000  # more than are measured; the program is killed afterwards
TOKEN, INIT_TEXT, LEARNING_RATE = "zqxmug", "mug", "0.005"


@dataclass(frozen=True)
class Task:
    """The training that all programs do. `checkpoint` and `diffusers_folder`, converted from it, have the same weights."""

    checkpoint: Path
    diffusers_folder: Path
    images: Path
    num_images: int
    family: str
    resolution: int
    batch_size: int
    precision: str  # of the peers
    device: str

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


class Unavailable(Exception):
    """A peer cannot be measured; the message says why."""


def locate(name: str) -> tuple[Path, Path]:
    """A peer's folder and its Python, from environment variables. Raises Unavailable."""
    folder, python = os.environ.get(f"PEER_{name}"), os.environ.get(f"PEER_{name}_PYTHON")
    if not folder or not python:
        raise Unavailable(f"PEER_{name} and PEER_{name}_PYTHON are not both set")
    for path in (folder, python):
        if not Path(path).exists():
            raise Unavailable(f"{path} is not there")
    return Path(folder).absolute(), Path(python).absolute()


class A1111(GatedProgram):
    """AUTOMATIC1111's WebUI, started without its page; its own trainer is controlled over HTTP."""

    url: str
    task: Task
    work: Path
    preparing: bool = False  # whether it is encoding the images

    @classmethod
    def create(cls, task: Task, work: Path) -> A1111:
        if task.family == "sdxl":
            raise Unavailable("it does not train SDXL")
        folder, python = locate("A1111")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        flags = ["--nowebui", "--skip-prepare-environment", "--no-download-sd-model", "--no-hashing"]
        flags += ["--port", str(port), "--data-dir", str(work), "--ckpt", str(task.checkpoint)]
        if not task.on_gpu:
            flags += ["--use-cpu", "all", "--skip-torch-cuda-test"]
        if task.precision == "fp32":
            flags += ["--no-half"]
        elif task.precision != "fp16":
            raise Unavailable("it trains in fp16 or fp32")
        (work / "embeddings").mkdir()
        self = cls("A1111", python, [str(folder / "launch.py"), *flags], folder, {})
        self.url, self.task, self.work = f"http://127.0.0.1:{port}/sdapi/v1", task, work
        return self

    def _prepare(self) -> None:
        embedding = {"name": TOKEN, "num_vectors_per_token": 1, "overwrite_old": True, "init_text": INIT_TEXT}
        self._wait(lambda: self._post("create/embedding", embedding))
        threading.Thread(target=self._post, args=("train/embedding", self._training_request()), daemon=True).start()

    def _training_request(self) -> dict[str, Any]:
        task = self.task
        return {
            "id_task": "benchmark", "embedding_name": TOKEN, "learn_rate": LEARNING_RATE, "batch_size": task.batch_size,
            "gradient_step": 1, "data_root": str(task.images), "log_directory": str(self.work / "log"),
            "training_width": task.resolution, "training_height": task.resolution, "varsize": False, "steps": MAX_STEPS,
            "clip_grad_mode": "disabled",
            "clip_grad_value": "0.1", "shuffle_tags": False, "tag_drop_out": 0, "latent_sampling_method": "once",
            "use_weight": False, "create_image_every": 0, "save_embedding_every": MAX_STEPS, "template_filename": "subject.txt",
            "save_image_with_stored_embedding": False, "preview_from_txt2img": False, "preview_prompt": "",
            "preview_negative_prompt": "", "preview_steps": 20, "preview_sampler_name": "Euler", "preview_cfg_scale": 7,
            "preview_seed": 1, "preview_width": task.resolution, "preview_height": task.resolution,
        }  # fmt: skip

    def _post(self, endpoint: str, body: dict[str, Any]) -> bool:
        request = urllib.request.Request(
            f"{self.url}/{endpoint}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as reply:
                info = json.load(reply)["info"]
        except urllib.error.HTTPError as error:
            raise ProgramFailed(error.read().decode("utf-8", "replace")[:300]) from error
        except (OSError, ValueError):  # it has not started yet, or has been killed
            time.sleep(0.2)
            return False
        if "error" in info and not info.endswith("error: None"):
            self._output += f"\nError: {info}"
            if self._process:
                self._process.kill()
        return True

    def _handle_line(self, line: str, timestamp: float) -> None:
        self.preparing = self.preparing or "Preparing dataset" in line
        if self.preparing and (progress := re.search(r"\| (\d+)/(\d+) \[", line)):
            self._timestamps.append((progress[1], timestamp))
            self.preparing = progress[1] != progress[2]

    def _encoding_timestamps(self) -> list[float]:
        first_seen = {count: timestamp for count, timestamp in reversed(self._timestamps) if count != "0"}
        return sorted(first_seen.values()) if len(first_seen) == self.task.num_images else []


def diffusers(task: Task, work: Path) -> Program:
    folder, python = locate("DIFFUSERS")
    script = "textual_inversion_sdxl.py" if task.family == "sdxl" else "textual_inversion.py"
    options = {
        "pretrained_model_name_or_path": task.diffusers_folder, "train_data_dir": task.images, "placeholder_token": TOKEN,
        "initializer_token": INIT_TEXT, "resolution": task.resolution, "train_batch_size": task.batch_size,
        "max_train_steps": MAX_STEPS, "save_steps": MAX_STEPS, "checkpointing_steps": MAX_STEPS, "learning_rate": LEARNING_RATE,
        "mixed_precision": "no" if task.precision == "fp32" else task.precision, "output_dir": work / "out",
    }  # fmt: skip
    return _script("diffusers' script", python, folder / "examples" / "textual_inversion" / script, options, [], work)


def kohya(task: Task, work: Path) -> Program:
    folder, python = locate("KOHYA")
    script = "sdxl_train_textual_inversion.py" if task.family == "sdxl" else "train_textual_inversion.py"
    shutil.copytree(task.images, work / "pictures" / f"1000_{INIT_TEXT}")
    options = {
        "pretrained_model_name_or_path": task.checkpoint, "train_data_dir": work / "pictures", "output_dir": work / "out",
        "token_string": TOKEN, "init_word": INIT_TEXT, "num_vectors_per_token": 1, "resolution": task.resolution,
        "train_batch_size": task.batch_size, "max_train_steps": MAX_STEPS, "learning_rate": LEARNING_RATE,
        "optimizer_type": "AdamW", "max_data_loader_n_workers": 0,
        "mixed_precision": "no" if task.precision == "fp32" else task.precision,
    }  # fmt: skip
    switches = ["--use_object_template", "--cache_latents", "--sdpa"]
    if task.family == "sdxl":
        switches += ["--no_half_vae"]
    return _script("kohya's script", python, folder / script, options, switches, work)


def _script(
    title: str, python: Path, script: Path, options: dict[str, Any], switches: list[str], work: Path
) -> Program:
    if not script.is_file():
        raise Unavailable(f"{script} is not there")
    flags = [f"--{name}={value}" for name, value in options.items()]
    return GatedProgram(title, python, [str(script), *flags, *switches], script.parent, {})


PEERS: dict[str, Callable[[Task, Path], Program]] = {"a1111": A1111.create, "diffusers": diffusers, "kohya": kohya}


def own(python: Path, precision: str, task: Task, work: Path, extra: list[str]) -> OwnProgram:
    options = {
        "model": str(task.checkpoint), "images": str(task.images), "name": TOKEN, "init-text": INIT_TEXT, "vectors": "1",
        "resolution": str(task.resolution), "batch-size": str(task.batch_size), "steps": str(MAX_STEPS), "preview-every": "0",
        "learning-rate": LEARNING_RATE, "snapshot-every": "0", "device": task.device, "precision": precision,
        "out": str(work / "embeddings"), "runs-dir": str(work / "runs"),
    }  # fmt: skip
    return OwnProgram(python, options, extra)


def write_noise_images(folder: Path, count: int, side: int) -> None:
    """Write different noise images of the size that is trained at."""
    from PIL import Image

    folder.mkdir()
    for i in range(count):
        Image.effect_noise((side, side), 40 + 10 * i).convert("RGB").save(folder / f"{i + 1}.png")


def convert_to_diffusers(checkpoint: Path, folder: Path) -> None:
    """Convert the checkpoint to a folder with a sub-folder for each network, as diffusers' scripts take it."""
    import torch
    from diffusers import DDPMScheduler

    from lib_ti.model.checkpoint.open import open_checkpoint

    source, part = open_checkpoint(checkpoint), folder.with_name(f"{folder.name}.part")
    assert source.vae
    shutil.rmtree(part, ignore_errors=True)
    texts = dict(zip(("text_encoder", "text_encoder_2"), source.text.values(), strict=False))
    for name, network in {**texts, "unet": source.unet, "vae": source.vae}.items():
        dtype = network.weights.read(next(iter(network.expected_shapes))).dtype
        loaded: Any = network.load(dtype, torch.device("cpu"))
        loaded.save_pretrained(part / name)
    for name in texts:
        shutil.copytree(
            ROOT / "lib_ti" / "model" / "prompt" / "clip_vocab", part / name.replace("text_encoder", "tokenizer")
        )
    noise = source.noise
    DDPMScheduler(
        num_train_timesteps=noise.num_train_timesteps, beta_start=noise.beta_start, beta_end=noise.beta_end, clip_sample=False,
        beta_schedule="scaled_linear", prediction_type="v_prediction" if noise.prediction_type == "v" else "epsilon",
        rescale_betas_zero_snr=noise.zero_terminal_snr, steps_offset=1,
    ).save_pretrained(part / "scheduler")  # fmt: skip
    part.rename(folder)
