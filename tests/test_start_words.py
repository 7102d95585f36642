"""Words to start from: found by a training for itself, and suggested to the user."""

import json

import pytest
import torch
from reference.trainings import run, settings_for

from lib_ti.cli import main
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.runs.execute import create_run, execute_run
from lib_ti.training.preflight.preflight import preflight
from lib_ti.training.start import ranking
from lib_ti.training.start.candidates import common_words, many_words, user_phrases
from lib_ti.training.start.suggest import best_count

pytestmark = pytest.mark.start_words
KINDS = ("subject", "style", "negative")


def test_candidates_are_distinct_single_tokens():
    tokenizer = PromptTokenizer()
    for kind in KINDS:
        words = many_words(kind)
        assert len(words) == len(set(words))
        assert words[: len(common_words(kind))] == common_words(kind)
        assert [word for word in words if len(tokenizer.token_ids(word)) != 1] == []


def test_user_phrases():
    assert user_phrases(" a mug , old cup,, Auto") == ["a mug", "old cup"]
    assert user_phrases("auto") == []


@pytest.fixture
def losses_of_words(monkeypatch):
    """The loss of each word; of those that are not given it is 1."""
    losses = {"tree": 0.5, "mug": 0.6, "coin": 0.7}
    monkeypatch.setattr(
        ranking.WordRanking,
        "losses",
        lambda self, text, chosen=None: torch.full(
            (len((chosen or self.validation_set).triples),), losses.get(text, 1.0)
        ),
    )
    return losses


def test_a_training_starts_from_the_best_words_and_stores_them(tiny_checkpoint, pictures, tmp_path, losses_of_words):
    seen = []
    options = {"vectors": "3", "init_text": "auto"}
    folder = run(settings_for(tiny_checkpoint, pictures, tmp_path, **options), on_event=seen.append)
    assert [event.data["words"] for event in seen if event.kind == "start"] == ["tree mug coin"]
    trials = [(event.data["done"], event.data["total"]) for event in seen if event.kind == "searching"]
    assert trials == [(i + 1, len(trials)) for i in range(len(trials))]
    assert folder.settings.init_text == "tree mug coin"
    given = run(settings_for(tiny_checkpoint, pictures, tmp_path, vectors="3", init_text="tree mug coin", name="given"))
    steps = [[event.data["loss"] for event in f.history().steps.values()] for f in (folder, given)]
    assert steps[0] == steps[1]


def test_a_resumed_run_does_not_search_again(tiny_checkpoint, pictures, tmp_path, losses_of_words):
    folder, seen = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path, init_text="auto"))), []
    assert not execute_run(
        folder, on_event=seen.append, should_stop=lambda: bool(seen) and seen[-1].data.get("step") == 2
    )
    losses_of_words.clear()
    assert execute_run(folder, on_event=seen.append)
    assert [event.kind for event in seen].count("start") == 1


def test_a_stop_during_the_search_is_obeyed(tiny_checkpoint, pictures, tmp_path, monkeypatch):
    stopped = []
    losses = ranking.WordRanking.losses
    monkeypatch.setattr(ranking.WordRanking, "losses", lambda *a, **k: (stopped.append(1), losses(*a, **k))[1])
    folder = create_run(preflight(settings_for(tiny_checkpoint, pictures, tmp_path, init_text="auto")))
    assert not execute_run(folder, should_stop=lambda: bool(stopped))
    assert folder.history().last.kind == "stopped"
    assert len(stopped) == 1


def test_random_and_embedding_starts_need_no_search(tiny_checkpoint, pictures, tmp_path):
    seen = []
    run(settings_for(tiny_checkpoint, pictures, tmp_path, init_text="auto", init_random="true"), on_event=seen.append)
    assert "start" not in [event.kind for event in seen]


def test_words_are_ranked_on_more_triples_the_better_they_are(tiny_checkpoint, pictures, tmp_path, losses_of_words):
    tried = []
    original = ranking.WordRanking.losses
    ranking.WordRanking.losses = lambda self, text, chosen=None: (tried.append(text), original(self, text, chosen))[1]
    try:
        run(settings_for(tiny_checkpoint, pictures, tmp_path, init_text="auto"))
    finally:
        ranking.WordRanking.losses = original
    assert [tried.count(word) for word in ("tree", "mug", "coin")] == [2, 2, 2]
    assert len(tried) == len(common_words("subject")) + ranking.MIN_KEPT


def test_suggest_ranks_words_and_phrases(tiny_checkpoint, pictures, monkeypatch, capsys, losses_of_words):
    losses_of_words["my old mug"] = 2.0
    arguments = ["suggest", "--json", f"--images={pictures}", f"--model={tiny_checkpoint}", "--init-text=my old mug"]
    assert main(arguments) == 0
    *running, done = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {reply["state"] for reply in running} == {"running"}
    assert running[-1]["done"] == running[-1]["total"]
    assert done["state"] == "done"
    assert [word["text"] for word in done["words"][:3]] == ["tree", "mug", "coin"]
    assert done["words"][0] == {"text": "tree", "gain": pytest.approx(0.5), "share": 1.0}
    assert done["words"][-1] == {"text": "my old mug", "gain": pytest.approx(-1.0), "share": pytest.approx(-2.0)}
    assert isinstance(done["vectors"], int)


def test_suggest_says_what_is_missing(tmp_path, capsys):
    assert main(["suggest", f"--images={tmp_path / 'none'}", "--model=none.safetensors"]) == 2
    errors = capsys.readouterr().err
    assert "none.safetensors" in errors
    assert "--images" in errors


def test_best_count_prefers_few_vectors():
    noise = torch.linspace(-0.1, 0.1, 8)
    assert best_count({1: 1.0 - noise, 2: 0.99 + noise, 3: 0.98 + noise}) == 1
    assert best_count({1: 1.0 + noise, 2: 0.5 - noise, 3: 0.499 + noise}) == 2
    assert best_count({1: noise}) is None
