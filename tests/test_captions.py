"""Training prompts from templates, captions and tags; the placeholder is in every one of them."""

import random
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib_ti.data.captions import TEMPLATES, Captioner, PreviewPrompt, load_templates, preview_prompts, usage
from lib_ti.errors import UnusableFile
from lib_ti.model.prompt.placeholder import NO_VECTOR, Placeholder
from lib_ti.model.prompt.prompt_tokenizer import PromptTokenizer
from lib_ti.settings.parsing import parse
from lib_ti.training.dataloader import DataLoader


def make_prompt(template: str, caption: str, mentions_name: bool = False, seed: int = 0, **options) -> str:
    return Captioner("my-mug", [template], **options).prompt(caption, mentions_name, random.Random(seed))


class TestTemplates:
    def read(self, tmp_path, data: bytes) -> tuple[str, ...]:
        path = tmp_path / "templates.txt"
        path.write_bytes(data)
        return load_templates(path)

    @pytest.mark.parametrize(
        "data",
        [
            b"a [name]\nthe [name]",
            b"\xef\xbb\xbfa [name]\r\nthe [name]\r\n",
            b"\n# a note\n  a [name] \n\n\t\nthe [name]\n",
        ],
    )
    def test_one_template_per_line(self, tmp_path, data):
        assert self.read(tmp_path, data) == ("a [name]", "the [name]")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "no template"),
            (b" \n\n", "no template"),
            (b"# x\n#\n", "no template"),
            (b"\1\0\0\2", "cannot be read"),
        ],
    )
    def test_unusable_template_files(self, tmp_path, data, reason):
        with pytest.raises(UnusableFile, match=reason):
            self.read(tmp_path, data)

    def test_missing_template_file(self, tmp_path):
        with pytest.raises(UnusableFile, match="cannot be read"):
            load_templates(tmp_path / "templates.txt")
        with pytest.raises(UnusableFile, match="cannot be read"):
            load_templates(tmp_path)

    @pytest.mark.parametrize("kind", TEMPLATES)
    def test_default_templates_have_one_name_slot_and_differ(self, kind):
        assert len(set(TEMPLATES[kind])) == len(TEMPLATES[kind]) >= 5
        assert {template.count("[name]") for template in TEMPLATES[kind]} == {1}

    def test_templates_are_chosen_uniformly(self):
        captioner, rng = Captioner("m", TEMPLATES["subject"]), random.Random(0)
        counts = Counter(captioner.prompt("", False, rng) for _ in range(4400))
        assert counts.keys() == {template.replace("[name]", "m") for template in TEMPLATES["subject"]}
        assert max(counts.values()) < 1.5 * min(counts.values())


@pytest.mark.parametrize(
    ("template", "caption", "prompt"),
    [
        ("a photo of [name]", "", "a photo of my-mug"),
        ("a photo of [name]", "red, on a table", "a photo of my-mug"),
        ("[name]: [filewords]", "on a table", "my-mug: on a table"),
        ("[filewords], by [name] [name]", "a cat", "a cat, by my-mug my-mug"),
        # without a caption nothing remains of its slot
        ("[name], [filewords]", "", "my-mug"),
        ("[filewords], [name]", "", "my-mug"),
        ("[filewords]", "", "my-mug"),
        ("[filewords]", "a cat", "a cat"),
        # the WebUIs' prompt syntax is plain text
        ("a (photo:1.2) of [name], [filewords]", "a ((cat)) [with] {hats} <lora:x:1> | AND",
         "a (photo:1.2) of my-mug, a ((cat)) [with] {hats} <lora:x:1> | AND"),
        # slots in a caption are plain text too
        ("[name], [filewords]", "about [filewords] and [name]", "my-mug, about [filewords] and [name]"),
        ("a \\1 of [name], [filewords]", "\\g<0>", "a \\1 of my-mug, \\g<0>"),
    ],
)  # fmt: skip
def test_prompt_from_template_and_caption(template, caption, prompt):
    assert make_prompt(template, caption) == prompt


def test_caption_that_mentions_the_name_is_used_alone():
    assert make_prompt("a photo of [name]", "my-mug on a table", mentions_name=True) == "my-mug on a table"


class TestTags:
    CAPTION = "red mug, on a table ,, (close-up:1.1), 2 cups"
    TAGS = ("red mug", "on a table", "(close-up:1.1)", "2 cups")

    def sample(self, **options) -> list[list[str]]:
        captioner, rng = Captioner("m", ["[filewords]"], **options), random.Random(0)
        return [captioner.prompt(self.CAPTION, False, rng).split(", ") for _ in range(1000)]

    def test_caption_is_unchanged_by_default(self):
        assert make_prompt("[filewords]", self.CAPTION) == self.CAPTION

    def test_tags_are_shuffled_into_every_order(self):
        orders = Counter(map(tuple, self.sample(shuffle_tags=True)))
        assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(self.TAGS))}
        assert len(orders) == 24

    def test_tags_are_dropped_independently_and_keep_their_order(self):
        prompts = self.sample(tag_dropout=0.3)
        for tags in prompts:
            assert tags == ["m"] or tags == [tag for tag in self.TAGS if tag in tags]
        for tag in self.TAGS:
            assert sum(tag in tags for tags in prompts) == pytest.approx(700, abs=60)

    def test_dropping_all_tags_leaves_the_name(self):
        assert {tuple(tags) for tags in self.sample(tag_dropout=1.0)} == {("m",)}

    def test_caption_dropout_drops_the_whole_caption(self):
        prompts = self.sample(caption_dropout=0.25)
        assert sum(tags == ["m"] for tags in prompts) == pytest.approx(250, abs=60)
        assert {len(tags) for tags in prompts} == {1, len(self.CAPTION.split(", "))}

    def test_same_seed_gives_the_same_prompt(self):
        options = {"shuffle_tags": True, "tag_dropout": 0.3, "caption_dropout": 0.3}
        first, second = (make_prompt("[filewords]", self.CAPTION, seed=5, **options) for _ in range(2))
        assert first == second


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return PromptTokenizer()


def dataloader(tokenizer: PromptTokenizer, templates, name: str = "my-mug", count: int = 2, **options) -> DataLoader:
    captioner = Captioner(name, templates, **options)
    return DataLoader(
        (), None, captioner, tokenizer, Placeholder(name, 0, count), seed=0, flip=False, num_timesteps=1000
    )


def vector_rows(prompt) -> list[int]:
    return [row for row in prompt.vector_rows if row != NO_VECTOR]


HOSTILE = st.sampled_from(
    ["", "my-mug", "MY-MUG,", "my - mug", "my-mugs", "<|endoftext|>", "<|EndOfText|>", "(x:1.2)", "[name]", "\0",
     "\u0301", "杯子", "cat " * 90]
)  # fmt: skip
CAPTIONS = st.lists(HOSTILE | st.text(max_size=30), max_size=5).map(" ".join)
PROBABILITIES = st.sampled_from([0.0, 0.5, 1.0])


@given(
    caption=CAPTIONS,
    template=st.sampled_from(
        ["[name]", "a photo of [name], [filewords]", "[filewords]", "no slot", "cat " * 90 + "[name]"]
    ),
    count=st.sampled_from([1, 2, 75]),
    shuffle=st.booleans(),
    tag_dropout=PROBABILITIES,
    caption_dropout=PROBABILITIES,
    seed=st.integers(0, 9),
)
@example(
    caption="a red my-mug", template="no slot", count=2, shuffle=False, tag_dropout=1.0, caption_dropout=0.0, seed=0
)
@example(
    caption="a <|EndOfText|> b", template="[name]", count=2, shuffle=False, tag_dropout=0.0, caption_dropout=0.0, seed=0
)
@example(
    caption="cat " * 74 + "my-mug",
    template="[name]",
    count=2,
    shuffle=False,
    tag_dropout=0.0,
    caption_dropout=0.0,
    seed=0,
)
def test_placeholder_is_in_every_prompt(
    tokenizer, caption, template, count, shuffle, tag_dropout, caption_dropout, seed
):
    """Without it there is no gradient, and the step is wasted."""
    options = {"shuffle_tags": shuffle, "tag_dropout": tag_dropout, "caption_dropout": caption_dropout}
    prompt = dataloader(tokenizer, [template], count=count, **options).tokenize_prompt(caption, random.Random(seed))
    assert len(prompt.input_ids) == len(prompt.vector_rows) == 77
    assert prompt.vector_rows[0] == prompt.vector_rows[-1] == NO_VECTOR
    start = prompt.vector_rows.index(0)
    assert prompt.vector_rows[start : start + count] == tuple(range(count)), "its vectors are adjacent and in order"
    ends = [i for i, token in enumerate(prompt.input_ids) if token == 49407]
    assert ends == [*range(ends[0], 77)], "no text contains the end token"


def test_caption_with_the_name_gets_no_second_one(tokenizer):
    prompt = dataloader(tokenizer, ["a photo of [name]"]).tokenize_prompt("a red My-Mug on a table", random.Random(0))
    assert vector_rows(prompt) == [0, 1]
    assert prompt == tokenizer.encode("a red my-mug on a table", [Placeholder("my-mug", 0, 2)])


def test_name_within_another_word_is_not_the_placeholder(tokenizer):
    """`cat` is a word of its own, not the front of `catalog`."""
    prompt = dataloader(tokenizer, ["a photo of [name], [filewords]"], name="cat", count=1).tokenize_prompt(
        "a catalog", random.Random(0)
    )
    assert vector_rows(prompt) == [0]
    assert prompt == tokenizer.encode("a photo of cat, a catalog", [Placeholder("cat", 0, 1)])


def test_brackets_and_weights_are_ordinary_tokens(tokenizer):
    text = "a ((cat:1.3)) [dog]"
    assert tokenizer.encode(text).input_ids[1:-1] == (
        *tokenizer.token_ids(text),
        *[49407] * (75 - len(tokenizer.token_ids(text))),
    )
    assert "".join(tokenizer.decode(token) for token in tokenizer.token_ids(text)) == "a((cat:1.3))[dog]"


@pytest.mark.parametrize(
    "text",
    ["<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "<|StartOfText|>", "<|endof<|endoftext|>text|>",
     "<|endof\0text|>", "<|endof\u200btext|>"],  # the tokenizer lowers case and drops what is invisible
)  # fmt: skip
def test_special_tokens_in_text_are_plain_text(tokenizer, text):
    assert not {49406, 49407} & set(tokenizer.token_ids(f"a {text} b"))


class TestPreviewPrompts:
    def prompts(self, **options) -> tuple[PreviewPrompt, ...]:
        return preview_prompts(parse({"name": "my-blur", **options})[0])

    def test_word_is_in_the_prompt(self):
        assert self.prompts(preview_prompt=["a [name]"], preview_negative_prompt="no [name]") == (
            PreviewPrompt("a my-blur", "no my-blur"),
        )

    def test_negative_embedding_is_previewed_with_and_without_it_in_the_negative_prompt(self):
        house_with, house_without, *flower = self.prompts(kind="negative")
        assert house_with == PreviewPrompt("a photo of a house", "my-blur")
        assert house_without == PreviewPrompt("a photo of a house", "", changes=False)
        assert len(flower) == 2

    @pytest.mark.parametrize(
        ("prompt", "negative", "with_word", "without_word"),
        [
            ("a [name] mug", "dark", ("a mug", "dark, my-blur"), ("a mug", "dark")),
            ("a mug, [name]", "(dark, [name]:1.2)", ("a mug", "(dark, my-blur:1.2)"), ("a mug", "(dark:1.2)")),
        ],
    )
    def test_own_prompts_of_a_negative_embedding(self, prompt, negative, with_word, without_word):
        pair = self.prompts(kind="negative", preview_prompt=[prompt], preview_negative_prompt=negative)
        assert pair == (PreviewPrompt(*with_word), PreviewPrompt(*without_word, changes=False))

    def test_word_written_out_changes_the_image(self):
        pair = self.prompts(kind="negative", preview_prompt=["a My-Blur mug"])
        assert [preview.changes for preview in pair] == [True, True]


def test_usage_names_the_prompt_that_the_word_belongs_in():
    assert usage("my-blur", "negative") == "Add my-blur to the negative prompt."
    assert usage("my-mug", "style") == "Write my-mug into any prompt."
