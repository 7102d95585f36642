"""The files we write, read with the loaders of the programs that they are for.

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
SD_FORMATS = {(family, how) for family in ("sd1", "sd2") for how in ("safetensors", "a1111", "diffusers")}
SDXL_FORMATS = {("sdxl", "safetensors"), ("sdxl", "a1111")}
READABLE = {
    "a1111": SD_FORMATS | SDXL_FORMATS,
    "forge": SD_FORMATS | SDXL_FORMATS,
    "reforge": SD_FORMATS | SDXL_FORMATS,
    "comfyui": SD_FORMATS | SDXL_FORMATS,
    "sd-scripts": SD_FORMATS | SDXL_FORMATS,
    "sdnext": SD_FORMATS | SDXL_FORMATS - {("sdxl", "a1111")},
    "invokeai": (SD_FORMATS | SDXL_FORMATS) - {("sd1", "diffusers"), ("sd2", "diffusers")},
    "onetrainer": SDXL_FORMATS,
    "diffusers": SD_FORMATS | {("sdxl", "diffusers")},
}
"""What each program reads; it refuses or ignores everything else."""


def loader_of(program: str) -> tuple[Path, Path]:
    """The program's folder and its Python. Skips the test if it is not installed."""
    root = Path(os.environ.get("LOADERS", "."))
    folder, python = root / program, root / f"{program}.venv" / "bin" / "python"
    if not ("LOADERS" in os.environ and folder.is_dir()):
        pytest.skip(f"{program} is not installed: LOADERS says where other programs' sources are")
    return folder, python if python.exists() else Path(sys.executable)


def run_loader(program: str, widths: tuple[int, ...], files: list[Path]) -> dict[str, dict]:
    if program == "diffusers":  # in this process, which has imported it
        return {str(file): _load_with_diffusers(widths, file) for file in files}
    folder, python = loader_of(program)
    script = Path(__file__).parent / "loaders" / "programs.py"
    command = [python, script, program, folder, "+".join(map(str, widths)), *files]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def _load_with_diffusers(widths: tuple[int, ...], file: Path) -> dict:
    try:
        return diffusers(None, widths, file)
    except ValueError as error:
        return {"refused": str(error)}


@pytest.fixture(scope="module")
def embeddings() -> dict[str, Embedding]:
    generator = torch.Generator().manual_seed(0)
    metadata = {"steps": "500", "checkpoint_name": "v1-5", "checkpoint_sha256": "ab" * 32, "name": "my-mug"}
    return {
        family: Embedding(
            "my-mug",
            {k: torch.randn(3, w, generator=generator) for k, w in zip(("clip_l", "clip_g"), widths, strict=False)},
            metadata,
        )
        for family, widths in WIDTHS.items()
    }


@pytest.mark.parametrize("family", WIDTHS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_read_our_files(tmp_path, embeddings, program, family):
    embedding, files = embeddings[family], {}
    for how, (suffix, _) in FORMATS.items():
        (tmp_path / how).mkdir()
        files[how] = save_embedding(embedding, how, tmp_path / how / f"my-mug{suffix}")[0]
    results = run_loader(program, WIDTHS[family], list(files.values()))
    expected = sorted(
        [list(v.shape), hashlib.sha256(v.numpy().tobytes()).hexdigest()] for v in embedding.vectors.values()
    )
    for how, file in files.items():
        result = results[str(file)]
        if (family, how) in READABLE[program]:
            assert sorted(result.get("vectors", {}).values()) == expected, result
            named_by_key = program == "diffusers" and how == "safetensors"  # which diffusers takes for the token
            assert result["name"] == ("emb_params" if named_by_key else "my-mug")
        else:
            assert "refused" in result, f"{program} now reads {how} for {family}: say so in docs/formats.md"
