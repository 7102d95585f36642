"""The files we write, read by the programs they are for.

LOADERS is a folder with those programs' sources, each in a folder by its name below; NAME.venv beside it is the Python
environment it runs in, where it has its own. docs/formats.md says which versions were tried. diffusers is always there.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loaders.programs import PROGRAMS, diffusers

from lib_ti.embedding.value import Embedding
from lib_ti.embedding.write import FORMATS, save_embedding

WIDTHS = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}
ONE_KEY = {(family, how) for family in ("sd1", "sd2") for how in ("safetensors", "a1111", "diffusers")}
BOTH = {("sdxl", "safetensors"), ("sdxl", "a1111")}
READ = {
    "a1111": ONE_KEY | BOTH,
    "forge": ONE_KEY | BOTH,
    "reforge": ONE_KEY | BOTH,
    "comfyui": ONE_KEY | BOTH,
    "sd-scripts": ONE_KEY | BOTH,
    "sdnext": ONE_KEY | BOTH - {("sdxl", "a1111")},
    "invokeai": (ONE_KEY | BOTH) - {("sd1", "diffusers"), ("sd2", "diffusers")},
    "onetrainer": BOTH,
    "diffusers": ONE_KEY | {("sdxl", "diffusers")},
}
"""What each reads; all else it refuses or leaves out."""


def loader(program: str) -> tuple[Path, Path]:
    """Its folder and its Python. Skips the test where it is not at hand."""
    root = Path(os.environ.get("LOADERS", "."))
    folder, python = root / program, root / f"{program}.venv" / "bin" / "python"
    if not ("LOADERS" in os.environ and folder.is_dir()):
        pytest.skip(f"{program} is not here: LOADERS says where other programs' sources are")
    return folder, python if python.exists() else Path(sys.executable)


def ask(program: str, widths: tuple[int, ...], files: list[Path]) -> dict[str, dict]:
    if program == "diffusers":  # here, where it is imported already
        return {str(file): _here(widths, file) for file in files}
    folder, python = loader(program)
    script = Path(__file__).parent / "loaders" / "programs.py"
    command = [python, script, program, folder, "+".join(map(str, widths)), *files]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _here(widths: tuple[int, ...], file: Path) -> dict:
    try:
        return diffusers(None, widths, file)
    except ValueError as error:
        return {"refused": str(error)}


@pytest.fixture(scope="module")
def embeddings() -> dict[str, Embedding]:
    generator = torch.Generator().manual_seed(0)
    told = {"steps": "500", "checkpoint_name": "v1-5", "checkpoint_sha256": "ab" * 32, "name": "my-mug"}
    return {
        family: Embedding(
            "my-mug",
            {k: torch.randn(3, w, generator=generator) for k, w in zip(("clip_l", "clip_g"), widths, strict=False)},
            told,
        )
        for family, widths in WIDTHS.items()
    }


@pytest.mark.parametrize("family", WIDTHS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_read_what_we_write(tmp_path, embeddings, program, family):
    embedding, files = embeddings[family], {}
    for how, (suffix, _) in FORMATS.items():
        (tmp_path / how).mkdir()
        files[how] = save_embedding(embedding, how, tmp_path / how / f"my-mug{suffix}")[0]
    answers = ask(program, WIDTHS[family], list(files.values()))
    wanted = sorted(
        [list(v.shape), hashlib.sha256(v.numpy().tobytes()).hexdigest()] for v in embedding.vectors.values()
    )
    for how, file in files.items():
        answer = answers[str(file)]
        if (family, how) in READ[program]:
            assert sorted(answer.get("vectors", {}).values()) == wanted, answer
            named_by_key = program == "diffusers" and how == "safetensors"  # and so has to be given its name
            assert answer["name"] == ("emb_params" if named_by_key else "my-mug")
        else:
            assert "refused" in answer, f"{program} now reads {how} for {family}: say so in docs/formats.md"
