"""The programs that are measured against each other: how each is found, what is prepared for it, and how it is started."""

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

from programs import ROOT, Failed, Program, Stamped
from trainer import Ours

sys.path.insert(0, str(ROOT))

ENDLESS = 1_000_000  # steps; a program is ended when it has been measured
WORD, START_WORD, RATE = "zqxmug", "mug", "0.005"


@dataclass(frozen=True)
class Task:
    """What all are asked to do. `checkpoint` and, made from it, `folder` hold the same weights."""

    checkpoint: Path
    folder: Path
    pictures: Path
    count: int
    family: str
    resolution: int
    batch: int
    precision: str  # the peers'
    device: str

    @property
    def on_card(self) -> bool:
        return self.device != "cpu"


class Unavailable(Exception):
    """Why a peer is not measured."""


def found(name: str) -> tuple[Path, Path]:
    """A peer's folder and its Python, by environment variables. Raises Unavailable."""
    folder, python = os.environ.get(f"PEER_{name}"), os.environ.get(f"PEER_{name}_PYTHON")
    if not folder or not python:
        raise Unavailable(f"PEER_{name} and PEER_{name}_PYTHON are not both set")
    for path in (folder, python):
        if not Path(path).exists():
            raise Unavailable(f"{path} is not there")
    return Path(folder).absolute(), Path(python).absolute()


class A1111(Stamped):
    """AUTOMATIC1111's WebUI with its own trainer, started without its page and told to train over HTTP."""

    url: str
    task: Task
    work: Path
    preparing: bool = False  # its pictures, just now

    @classmethod
    def of(cls, task: Task, work: Path) -> A1111:
        if task.family == "sdxl":
            raise Unavailable("it does not train SDXL")
        folder, python = found("A1111")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = ["--nowebui", "--skip-prepare-environment", "--no-download-sd-model", "--no-hashing"]
        flags += ["--port", str(port), "--data-dir", str(work), "--ckpt", str(task.checkpoint)]
        if not task.on_card:
            flags += ["--use-cpu", "all", "--skip-torch-cuda-test"]
        if task.precision == "fp32":
            flags += ["--no-half"]
        elif task.precision != "fp16":
            raise Unavailable("it trains in fp16 or fp32")
        (work / "embeddings").mkdir()
        self = cls("A1111", python, [str(folder / "launch.py"), *flags], folder, {})
        self.url, self.task, self.work = f"http://127.0.0.1:{port}/sdapi/v1", task, work
        return self

    def _begin(self) -> None:
        made = {"name": WORD, "num_vectors_per_token": 1, "overwrite_old": True, "init_text": START_WORD}
        self._wait(lambda: self._post("create/embedding", made))
        threading.Thread(target=self._post, args=("train/embedding", self._asked()), daemon=True).start()

    def _asked(self) -> dict[str, Any]:
        task = self.task
        return {
            "id_task": "benchmark", "embedding_name": WORD, "learn_rate": RATE, "batch_size": task.batch, "gradient_step": 1,
            "data_root": str(task.pictures), "log_directory": str(self.work / "log"), "training_width": task.resolution,
            "training_height": task.resolution, "varsize": False, "steps": ENDLESS, "clip_grad_mode": "disabled",
            "clip_grad_value": "0.1", "shuffle_tags": False, "tag_drop_out": 0, "latent_sampling_method": "once",
            "use_weight": False, "create_image_every": 0, "save_embedding_every": ENDLESS, "template_filename": "subject.txt",
            "save_image_with_stored_embedding": False, "preview_from_txt2img": False, "preview_prompt": "",
            "preview_negative_prompt": "", "preview_steps": 20, "preview_sampler_name": "Euler", "preview_cfg_scale": 7,
            "preview_seed": 1, "preview_width": task.resolution, "preview_height": task.resolution,
        }  # fmt: skip

    def _post(self, what: str, body: dict[str, Any]) -> bool:
        request = urllib.request.Request(
            f"{self.url}/{what}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as reply:
                told = json.load(reply)["info"]
        except urllib.error.HTTPError as error:
            raise Failed(error.read().decode("utf-8", "replace")[:300]) from error
        except (OSError, ValueError):  # it is not up yet, or has been ended
            time.sleep(0.2)
            return False
        if "error" in told and not told.endswith("error: None"):
            self._said += f"\nError: {told}"
            if self._process:
                self._process.kill()
        return True

    def _hear(self, line: str, moment: float) -> None:
        self.preparing = self.preparing or "Preparing dataset" in line
        if self.preparing and (counted := re.search(r"\| (\d+)/(\d+) \[", line)):
            self._moments.append((counted[1], moment))
            self.preparing = counted[1] != counted[2]

    def _encoded(self) -> list[float]:
        firsts = {name: moment for name, moment in reversed(self._moments) if name != "0"}
        return sorted(firsts.values()) if len(firsts) == self.task.count else []


def diffusers(task: Task, work: Path) -> Program:
    folder, python = found("DIFFUSERS")
    script = "textual_inversion_sdxl.py" if task.family == "sdxl" else "textual_inversion.py"
    options = {
        "pretrained_model_name_or_path": task.folder, "train_data_dir": task.pictures, "placeholder_token": WORD,
        "initializer_token": START_WORD, "resolution": task.resolution, "train_batch_size": task.batch,
        "max_train_steps": ENDLESS, "save_steps": ENDLESS, "checkpointing_steps": ENDLESS, "learning_rate": RATE,
        "mixed_precision": "no" if task.precision == "fp32" else task.precision, "output_dir": work / "out",
    }  # fmt: skip
    return _script("diffusers' script", python, folder / "examples" / "textual_inversion" / script, options, [], work)


def kohya(task: Task, work: Path) -> Program:
    folder, python = found("KOHYA")
    script = "sdxl_train_textual_inversion.py" if task.family == "sdxl" else "train_textual_inversion.py"
    shutil.copytree(task.pictures, work / "pictures" / f"1000_{START_WORD}")
    options = {
        "pretrained_model_name_or_path": task.checkpoint, "train_data_dir": work / "pictures", "output_dir": work / "out",
        "token_string": WORD, "init_word": START_WORD, "num_vectors_per_token": 1, "resolution": task.resolution,
        "train_batch_size": task.batch, "max_train_steps": ENDLESS, "learning_rate": RATE, "optimizer_type": "AdamW",
        "max_data_loader_n_workers": 0, "mixed_precision": "no" if task.precision == "fp32" else task.precision,
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
    return Stamped(title, python, [str(script), *flags, *switches], script.parent, {})


PEERS: dict[str, Callable[[Task, Path], Program]] = {"a1111": A1111.of, "diffusers": diffusers, "kohya": kohya}


def ours(python: Path, precision: str, task: Task, work: Path, extra: list[str]) -> Ours:
    options = {
        "model": str(task.checkpoint), "images": str(task.pictures), "name": WORD, "init-text": START_WORD, "vectors": "1",
        "resolution": str(task.resolution), "batch-size": str(task.batch), "steps": str(ENDLESS), "preview-every": "0",
        "learning-rate": RATE, "snapshot-every": "0", "device": task.device, "precision": precision,
        "out": str(work / "embeddings"), "runs-dir": str(work / "runs"),
    }  # fmt: skip
    return Ours(python, options, extra)


def made_up_pictures(folder: Path, count: int, side: int) -> None:
    """Pictures that differ, of the size that is trained."""
    from PIL import Image

    folder.mkdir()
    for i in range(count):
        Image.effect_noise((side, side), 40 + 10 * i).convert("RGB").save(folder / f"{i + 1}.png")


def as_diffusers(checkpoint: Path, folder: Path) -> None:
    """The checkpoint as diffusers' scripts want it: a folder with a sub-folder for each network."""
    import torch
    from diffusers import DDPMScheduler

    from lib_ti.model.checkpoint.open import open_checkpoint

    opened, part = open_checkpoint(checkpoint), folder.with_name(f"{folder.name}.part")
    assert opened.vae
    shutil.rmtree(part, ignore_errors=True)
    texts = dict(zip(("text_encoder", "text_encoder_2"), opened.text.values(), strict=False))
    for name, network in {**texts, "unet": opened.unet, "vae": opened.vae}.items():
        dtype = network.weights.read(next(iter(network.wanted))).dtype
        loaded: Any = network.load(dtype, torch.device("cpu"))
        loaded.save_pretrained(part / name)
    for name in texts:
        shutil.copytree(
            ROOT / "lib_ti" / "model" / "prompt" / "clip_vocab", part / name.replace("text_encoder", "tokenizer")
        )
    noise = opened.noise
    DDPMScheduler(
        num_train_timesteps=noise.steps, beta_start=noise.beta_start, beta_end=noise.last_beta, clip_sample=False,
        beta_schedule="scaled_linear", prediction_type="v_prediction" if noise.prediction == "v" else "epsilon",
        rescale_betas_zero_snr=noise.zero_terminal_snr, steps_offset=1,
    ).save_pretrained(part / "scheduler")  # fmt: skip
    part.rename(folder)
