"""Prompts are encoded as AUTOMATIC1111 encodes them.

golden/a1111-conditioning.safetensors holds projections of its conditioning; where LOADERS is set, as for test_loaders.py, its
code runs again and every number is compared.
"""

import itertools
import json
import time
from collections import Counter

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from reference import conditioning
from reference.conditioning import FAMILIES, REQUESTS, sketch
from test_loaders import loader_of

from lib_ti.model.checkpoint.open import open_checkpoint
from lib_ti.model.conditioning import Conditioner, apply_weights
from lib_ti.model.diffusion import StableDiffusion
from lib_ti.model.guidance import Guidance, ScheduledPrompt, encoded_texts, guide
from lib_ti.model.prompt.attention import parse_attention
from lib_ti.model.prompt.chunks import COMMA_BACKTRACK, COMMA_TOKEN, empty_chunk, mentioned_names, split_into_chunks
from lib_ti.model.prompt.placeholder import NO_VECTOR, Placeholder, PlaceholderMatcher
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.model.prompt.schedule import prompt_schedule, split_by_and, strip_comments
from lib_ti.model.prompt.text_encoder import Context
from lib_ti.model.prompt.tokenizer import BOS, CLIP_TOKENIZER, EOS, OPENCLIP_TOKENIZER, BytePairEncoding

SYNTAX = st.lists(
    st.one_of(st.sampled_from([*"()[]:|\\,#\n", "BREAK", " AND ", ":1.2)", ":0.5]", "my-mug", "cat "]), st.text(max_size=5)),
    max_size=25,
).map("".join)  # fmt: skip


# --- attention weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (red:1.5) mug", [("a ", 1), ("red", 1.5), (" mug", 1)]),
        ("(a)[b]", [("a", 1.1), ("b", 1 / 1.1)]),
        ("((a))", [("a", 1.21)]),
        ("(a (b:2):0.5)", [("a ", 0.5), ("b", 1.0)]),
        ("a (((house:1.3)) [on]", [("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1)]),
        (r"a \(b\) \[c\] \\", [("a (b) [c] \\", 1)]),
        (r"a\b" + "\\", [("ab", 1)]),
        ("a: b, 1:2 :3) (c", [("a: b, 1:2 :3) ", 1), ("c", 1.1)]),
        ("a:1.5) [b:0.5]", [("a:1.5) ", 1), ("b:0.5", 1 / 1.1)]),
        ("(a: -1 )", [("a", -1)]),
        ("(a:1.2.3) b", [("a:1.2.3", 1.1), (" b", 1)]),
        ("", []),
    ],
)
def test_attention_weights(text, expected):
    pieces = parse_attention(text)
    assert [piece.text for piece in pieces] == [text for text, _ in expected]
    assert [piece.weight for piece in pieces] == pytest.approx([weight for _, weight in expected])


def test_break_in_brackets_is_literal_with_negative_weight():
    assert [piece.is_break for piece in parse_attention("a BREAK b")] == [False, True, False]
    assert [(piece.text, piece.weight) for piece in parse_attention("(a BREAK b:1.2)")] == [
        ("a", 1.2),
        ("BREAK", -1.2),
        ("b", 1.2),
    ]
    assert len(parse_attention("aBREAK BREAKa break")) == 1


@given(SYNTAX)
def test_any_text_parses_and_keeps_its_letters(text):
    plain = "".join(c for c in text if c.isalpha()).replace("BREAK", "")
    parsed = "".join(piece.text for piece in parse_attention(text) if not piece.is_break)
    assert "".join(c for c in parsed if c.isalpha()).replace("BREAK", "") == plain
    steps = prompt_schedule(text, 7)
    assert [end for end, _ in steps] == sorted({end for end, _ in steps})
    assert steps[-1][0] == 7
    assert not Counter(steps[0][1]) - Counter(text)
    assert not Counter("".join(part for part, _ in split_by_and(text))) - Counter(text)
    assert "#" not in strip_comments(text)


@given(st.text(st.characters(blacklist_characters="()[]:|\\#", blacklist_categories=["Cs"])))
def test_text_without_syntax_is_unchanged(text):
    if "BREAK" not in text and "AND" not in text:
        assert [piece.text for piece in parse_attention(text)] == ([text] if text else [])
        assert (prompt_schedule(text, 5), split_by_and(text)) == ([(5, text)], [(text.rstrip(), 1.0)])


# --- prompt schedule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a [b:3]", {3: "a ", 10: "a b"}),
        ("a [[[b]]:2]", {2: "a ", 10: "a [[b]]"}),
        ("a [b : c : 1] d", {1: "a b  d", 10: "a  c  d"}),
        ("a[b:[c:d:2]:1]e", {1: "abe", 2: "ace", 10: "ade"}),
        ("[a::.3]b [c:-2] [d:99] [e:f:0.0]", {3: "ab c  f", 10: "b c  f"}),
        ("((a][:b:c [d:3]", {3: "((a][:b:c ", 10: "((a][:b:c d"}),
        ("[fe||]male", {step: "female" if step % 3 == 1 else "male" for step in range(1, 11)}),
        ("a [b:c:d:3] (e:f:g) [h:1", {10: "a [b:c:d:3] (e:f:g) [h:1"}),
        (r"\[a:3] \a [b\:2:3]", {3: r"\[a:3] \a ", 10: r"\[a:3] \a b\:2"}),
        ("x|y [a:3]", {10: "x|y [a:3]"}),
        ("(a|b) [c:3]", {10: "(a|b) [c:3]"}),
        ("[a:3] \\", {10: "[a:3] \\"}),
    ],
)
def test_prompt_editing(text, expected):
    assert dict(prompt_schedule(text, 10)) == expected


def test_deeply_nested_prompts():
    assert prompt_schedule("[" * 3000 + "a" + ":1]" * 3000, 5) == [(1, ""), (5, "a")]
    assert len(parse_attention("(" * 3000 + "a")) == 1
    assert prompt_schedule("[a|" * 500, 5) == [(5, "[a|" * 500)]


def test_split_by_and():
    assert split_by_and("a cat AND a dog :0.5 AND b: -2.") == [("a cat", 1.0), (" a dog", 0.5), (" b", -2.0)]
    assert split_by_and("a SAND b :1.x") == [("a SAND b :1.x", 1.0)]
    assert split_by_and("AND\n\n") == [("", 1.0), ("", 1.0)]


def test_strip_comments():
    assert strip_comments("a # b\n# c\nd#e") == "a \nd\n"
    assert encoded_texts("a AND [b:c:2] # d", "e", 9) == {"a", " b", " c", "e"}


# --- tokens and chunks -------------------------------------------------------------------------------------------


def test_clip_and_openclip_tokenizers():
    both = [tokenizer.encode("< A Café’s &amp;lt; mug") for tokenizer in (CLIP_TOKENIZER, OPENCLIP_TOKENIZER)]
    assert [[CLIP_TOKENIZER.decode(token) for token in ids] for ids in both] == [
        ["<", "a", "café", "'s", "&", "amp", ";", "lt", ";", "mug"],
        ["<", "a", "café", "'s", "<", "mug"],
    ]
    assert CLIP_TOKENIZER.encode("<|endoftext|> <end_of_text>")[0] == EOS
    assert OPENCLIP_TOKENIZER.encode("<start_of_text> <|startoftext|>")[0] == BOS
    assert CLIP_TOKENIZER.encode(",") == [COMMA_TOKEN]


@given(SYNTAX, st.sampled_from([CLIP_TOKENIZER, OPENCLIP_TOKENIZER]), st.integers(3, 75))
@example("cat, " + "my-mug " * 50, CLIP_TOKENIZER, 75)
@example("\ud800", OPENCLIP_TOKENIZER, 75)
def test_chunks_have_one_length(text, tokenizer, max_tokens):
    chunks = split_into_chunks(text, PlaceholderMatcher([Placeholder("my-mug", 5, 4)]), tokenizer, max_tokens)
    assert chunks
    for chunk in chunks:
        assert len(chunk.input_ids) == len(chunk.vector_rows) == len(chunk.weights) == max_tokens + 2
        assert (chunk.input_ids[0], chunk.input_ids[-1]) == (BOS, EOS)
        assert (chunk.vector_rows[0], chunk.vector_rows[-1], chunk.weights[0], chunk.weights[-1]) == (
            NO_VECTOR,
            NO_VECTOR,
            1,
            1,
        )
    assert {row for chunk in chunks for row in chunk.vector_rows} <= {NO_VECTOR, 5, 6, 7, 8}


def test_short_prompt_is_one_chunk_equal_to_prompt_tokenizer():
    placeholder = Placeholder("my-word", 3, 2)
    (chunk,) = split_into_chunks("a photo of my-word here", PlaceholderMatcher([placeholder]))
    prompt = PromptTokenizer().encode("a photo of my-word here", [placeholder])
    assert (chunk.input_ids, chunk.vector_rows, set(chunk.weights)) == (prompt.input_ids, prompt.vector_rows, {1.0})
    (weighted_chunk,) = split_into_chunks("a photo of (my-word:1.5) here", PlaceholderMatcher([placeholder]))
    assert (weighted_chunk.input_ids, weighted_chunk.vector_rows) == (prompt.input_ids, prompt.vector_rows)
    weights = dict(zip(weighted_chunk.vector_rows, weighted_chunk.weights, strict=True))
    assert weights == {NO_VECTOR: 1, 3: 1.5, 4: 1.5}
    assert split_into_chunks("", PlaceholderMatcher([])) == [empty_chunk()]


def token_counts(text, **placeholders):
    """The tokens of each chunk before its EOS."""
    matcher = PlaceholderMatcher(Placeholder(name, 0, count) for name, count in placeholders.items())
    return [sum(token != EOS for token in chunk.input_ids) - 1 for chunk in split_into_chunks(text, matcher)]


def test_chunk_boundaries():
    assert token_counts("cat " * 75) == [75]
    assert token_counts("cat " * 76) == [75, 1]
    assert token_counts("cat BREAK dog bird") == [1, 2]
    near, far = "cat " * (74 - COMMA_BACKTRACK + 1), "cat " * (74 - COMMA_BACKTRACK)
    assert token_counts(near + ", " + "dog " * 50) == [75 - COMMA_BACKTRACK + 1, 50]
    assert token_counts(far + ", " + "dog " * 50) == [75, 74 - COMMA_BACKTRACK + 1 + 50 - 75]
    assert token_counts("cat " * 70 + "mug mug", mug=3) == [73, 3]
    assert token_counts("cat mug", mug=90) == [1, 75]


def test_vectors_keep_their_positions_when_tokens_move_to_the_next_chunk():
    """As in AUTOMATIC1111: the tokens after the comma move to the next chunk, their vectors do not."""
    first, second = split_into_chunks(
        "cat " * 70 + ", mug dog dog dog dog dog", PlaceholderMatcher([Placeholder("mug", 7, 1)])
    )
    assert first.vector_rows[72] == 7
    assert first.input_ids[72] == EOS
    assert second.input_ids[1] == 0
    assert set(second.vector_rows) == {NO_VECTOR}


def test_placeholder_matching_takes_the_longest_and_last():
    placeholders = [
        Placeholder("mug", 0, 1),
        Placeholder("my-mug", 1, 1),
        Placeholder("MUG", 2, 1),
        Placeholder("mug", 3, 1),
        Placeholder("", 4, 1),
    ]
    (chunk,) = split_into_chunks("Mug my-mug", PlaceholderMatcher(placeholders))
    assert [row for row in chunk.vector_rows if row != NO_VECTOR] == [2, 1], (
        "MUG replaces mug, as both have the same tokens"
    )
    assert mentioned_names(["a (my-mug:2)", "x"], ["mug", "my-mug", "cup", ""]) == {"mug", "my-mug"}
    assert not mentioned_names(["my-(mug:2)"], ["my-mug"])


# --- tensors -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def conditioning_of_family(family, tmp_path_factory):
    """Our tensors, the weights and end steps of prompts, and the checkpoint."""
    path = conditioning.checkpoint(family, tmp_path_factory.mktemp("conditioning"))
    return *conditioning.ours(family, path), path


def test_conditioning_equals_a1111_golden(family, conditioning_of_family):
    golden, schedules = conditioning.golden()
    tensors, our_schedules, _ = conditioning_of_family
    assert schedules[family] == json.loads(json.dumps(our_schedules))
    assert {name.partition(".")[2] for name in golden if name.startswith(f"{family}.")} == set(tensors)
    for name, tensor in tensors.items():
        expected, request = golden[f"{family}.{name}"], REQUESTS[int(name.split(".")[0])]
        torch.testing.assert_close(sketch(tensor), expected, rtol=0, atol=1e-4, msg=lambda text: f"{request}: {text}")  # noqa: B023


def test_conditioning_equals_a1111_run_now(family, conditioning_of_family):
    program, python = loader_of("a1111")
    tensors, our_schedules, path = conditioning_of_family
    theirs, schedules = conditioning.theirs(family, path, program, python)
    assert schedules == json.loads(json.dumps(our_schedules))
    golden, _ = conditioning.golden()
    for name, expected in theirs.items():
        request = REQUESTS[int(name.split(".")[0])]
        assert tensors[name].shape == expected.shape, request
        assert float((tensors[name] - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), request
        torch.testing.assert_close(golden[f"{family}.{name}"], sketch(expected), rtol=0, atol=1e-4)
    assert set(theirs) == set(tensors)


def test_attention_weights_keep_the_mean():
    features = torch.rand(2, 3, 4) + 1
    product = apply_weights(features, [(1, 2, 1), (0.5, 1, -1)])
    assert torch.isclose(product.mean(), features.mean())
    assert torch.allclose(product[0, 1] / features[0, 1], 2 * product[0, 0] / features[0, 0])
    assert apply_weights(features, [(1, 1, 1), (1, 1, 1)]) is features


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = conditioning.checkpoint("sdxl", tmp_path_factory.mktemp("guidance"))
    return StableDiffusion.load(open_checkpoint(path), torch.float32, torch.device("cpu"))


@pytest.fixture
def conditioner(model):
    return Conditioner(model, [], model.empty_vectors())


def test_empty_negative_prompt_is_zeros(model, conditioner):
    for negative, blank in (("", True), (" ", False), ("# a comment", False)):
        unwanted = guide(conditioner, "a mug", negative, 5).negative.at(0)
        assert (not unwanted.encoder_hidden_states.any(), not unwanted.pooled.any()) == (blank, blank)
    assert guide(conditioner, "", "", 5).prompts[0].at(0).encoder_hidden_states.any()


def test_composed_prompts_predict_the_weighted_sum(model, conditioner):
    """Against single predictions; a longer negative prompt goes through the UNet by itself."""
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor(500)

    def predict_alone(text, negative=""):
        return guide(conditioner, text, negative, 9).predict(noisy, t, 0, 1.0)

    long = "cat " * 80
    for negative in ("bad", long):
        without, cat, dog = (predict_alone(text) for text in (negative, "a cat", "a dog"))
        predicted = guide(conditioner, "a cat AND a dog:0.5", negative, 9).predict(noisy, t, 0, 4.0)
        torch.testing.assert_close(predicted, without + 4 * (cat - without) + 2 * (dog - without), rtol=1e-4, atol=1e-4)
    two = guide(conditioner, f"{long} AND a dog:0", "bad", 9).predict(noisy, t, 0, 1.0)
    torch.testing.assert_close(two, predict_alone(long), rtol=1e-4, atol=1e-4)


def test_scheduled_prompt_changes_after_its_end_step(model, conditioner):
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor(500)
    changing = guide(conditioner, "[a cat:a dog:3]", "", 9)
    early, late = (guide(conditioner, text, "", 9).predict(noisy, t, 0, 5.0) for text in ("a cat", "a dog"))
    for step in range(9):
        expected = early if step <= 3 else late
        torch.testing.assert_close(changing.predict(noisy, t, step, 5.0), expected, rtol=1e-4, atol=1e-4)


def test_scheduled_prompt_selects_context_by_step():
    context = Context(torch.arange(3.0)[:, None, None])
    assert [int(ScheduledPrompt(context, [2, 5, 9]).at(step).encoder_hidden_states) for step in range(9)] == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
    ]


def test_contexts_have_the_models_dtype(model):
    half = StableDiffusion(**{**model.__dict__, "dtype": torch.bfloat16})
    guidance = guide(Conditioner(half, [], half.empty_vectors()), "a (mug:1.2)", "", 5)
    assert isinstance(guidance, Guidance)
    assert {guidance.negative.context.encoder_hidden_states.dtype, guidance.prompts[0].context.pooled.dtype} == {
        torch.bfloat16
    }


# --- prompts of any kind end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    ["[a:b:", "[a|", "(a:", "((", "[", "[a:b:0.5]", "[[a|b]|c]", "(a:1.1) ", "a AND ", " ", ": ", ":1", "\\(", "#", "\n", "x",
     "[a:b:1", "[(", "])", "BREAK "],
)  # fmt: skip
def test_long_and_deeply_nested_prompts_end_promptly(part):
    """Each of these took minutes, or hours, where the time grew with the square of the length."""
    prompt, started = part * 10_000, time.process_time()
    for text, _ in split_by_and(strip_comments(prompt)):
        for _, scheduled in prompt_schedule(text[:100_000], 10)[:3]:
            parse_attention(scheduled)
    CLIP_TOKENIZER.encode(prompt)
    assert time.process_time() - started < 20


def test_nested_editing_that_is_closed_ends_promptly():
    prompt, started = "[a:" * 10_000 + "b" + ":1]" * 10_000, time.process_time()
    assert prompt_schedule(prompt, 20) == [(1, "a"), (20, "b")]
    growing = "[x" * 10_000 + "|y]" * 10_000
    assert prompt_schedule(growing, 20) == [(20, growing)]
    assert time.process_time() - started < 10


_BPE = BytePairEncoding()


@given(st.text(st.sampled_from("aeilnrst"), min_size=1, max_size=40))
def test_words_are_merged_as_the_definition_says(word):
    """The pair of the lowest rank first, each time all of its occurrences from left to right."""
    bpe = _BPE
    ranks, symbols = bpe._bpe_ranks, [*word[:-1], f"{word[-1:]}</w>"]
    while pairs := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
        best, merged = min(pairs, key=ranks.__getitem__), []
        for symbol in symbols:
            if merged and (merged[-1], symbol) == best:
                merged[-1] += symbol
            else:
                merged.append(symbol)
        symbols = merged
    assert bpe._merge([*word[:-1], f"{word[-1:]}</w>"]) == symbols
