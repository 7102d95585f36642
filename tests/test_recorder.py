"""Outputs of a training in its run folder."""

from itertools import pairwise

from lib_ti.runs.folder import RunFolder
from lib_ti.runs.recorder import KEPT_LATEST, MAX_SNAPSHOTS, FolderRecorder


def test_snapshots_of_a_long_run_are_thinned(tmp_path):
    folder = RunFolder(tmp_path)
    recorder = FolderRecorder(folder)
    kept_most = 0
    for step in range(50, 50_001, 50):
        recorder.snapshot(step, b"vectors")
        kept = sorted(int(path.stem) for path in (tmp_path / "snapshots").iterdir())
        kept_most = max(kept_most, len(kept))
        assert kept[-1] == step
    assert kept_most == MAX_SNAPSHOTS
    assert kept[0] == 50
    assert kept[-KEPT_LATEST:] == list(range(50_050 - 50 * KEPT_LATEST, 50_001, 50))
    gaps = [after - before for before, after in pairwise(kept)]
    assert max(gaps) <= 4 * 50_000 / MAX_SNAPSHOTS, "they stay spread over the run"
    assert len(folder.history().snapshots) == 1000
