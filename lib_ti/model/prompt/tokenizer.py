"""CLIP's tokenizer: text to token ids and back.

Byte-pair encoding (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016) of UTF-8, with the
vocabulary and the merges that ship with the package. OpenAI's CLIP and OpenCLIP share both, but clean a text differently.
"""

from __future__ import annotations

import heapq
import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import ftfy
import regex

VOCAB_DIR = Path(__file__).parent / "clip_vocab"
BOS, EOS = 49406, 49407  # ids of the tokens around a prompt, the last two of CLIP's vocabulary
_END_OF_WORD = "</w>"  # suffix of a word's last token


class BytePairEncoding:
    """CLIP's vocabulary and merges. Reading them takes a moment: see `_clip_bpe`."""

    def __init__(self, folder: Path = VOCAB_DIR) -> None:
        self._vocab: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        self._tokens = {token_id: token for token, token_id in self._vocab.items()}
        merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        self._bpe_ranks = {tuple(line.split()): rank for rank, line in enumerate(merges) if len(line.split()) == 2}
        self._byte_encoder = dict(_bytes_to_unicode())
        self._byte_decoder = {symbol: byte for byte, symbol in self._byte_encoder.items()}
        self.encode_word = lru_cache(maxsize=1 << 15)(self._encode_word)

    def _encode_word(self, word: str) -> list[int]:
        """The token ids of one word: adjacent symbols are merged, the pair of the lowest rank first."""
        *init, last = (self._byte_encoder[byte] for byte in word.encode(errors="replace"))
        return [self._vocab[symbol] for symbol in self._merge([*init, last + _END_OF_WORD])]

    def _merge(self, symbols: list[str]) -> list[str]:
        """The symbols after all merges, in a time that grows with their number hardly faster than that.

        A merged symbol is only part of pairs that were learned after it, so that merging one occurrence after another gives what
        merging all of a pair at once does.
        """
        following = [*range(1, len(symbols)), -1]
        previous = [*range(-1, len(symbols) - 1)]
        merged: list[str | None] = [*symbols]
        queue: list[tuple[int, int, str, str]] = []

        def propose(left: int) -> None:
            if left < 0 or (right := following[left]) < 0:
                return
            first, second = merged[left], merged[right]
            assert first is not None and second is not None
            if (rank := self._bpe_ranks.get((first, second))) is not None:
                heapq.heappush(queue, (rank, left, first, second))

        for position in range(len(symbols)):
            propose(position)
        while queue:
            _, left, first, second = heapq.heappop(queue)
            right = following[left]
            if right < 0 or (merged[left], merged[right]) != (first, second):
                continue  # one of the two has been merged meanwhile
            merged[left], merged[right] = first + second, None
            following[left] = following[right]
            if following[left] >= 0:
                previous[following[left]] = left
            propose(previous[left])
            propose(left)
        return [symbol for symbol in merged if symbol is not None]

    def decode(self, token_id: int) -> str:
        """A token as text; one that does not end a word ends in a hyphen."""
        token = self._tokens[token_id]
        raw = bytes(self._byte_decoder[symbol] for symbol in token.removesuffix(_END_OF_WORD))
        return raw.decode(errors="replace") + ("" if token.endswith(_END_OF_WORD) else "-")


@lru_cache(maxsize=1)
def _clip_bpe() -> BytePairEncoding:
    """The one instance that all tokenizers share, read when it is first needed."""
    return BytePairEncoding()


@dataclass(frozen=True)
class Tokenizer:
    """One implementation's way of tokenizing text.

    `bos_token`, `eos_token`: how a text spells out the tokens around a prompt. `unescape_html`: resolve HTML entities, twice,
    before the text is divided.
    """

    bos_token: str
    eos_token: str
    unescape_html: bool = False

    def encode(self, text: str) -> list[int]:
        """The token ids of a text. `BOS` and `EOS` are among them only where the text spells them out."""
        special_ids = {self.bos_token: BOS, self.eos_token: EOS}
        encode_word = _clip_bpe().encode_word
        return [
            token_id
            for segment in self._segments(text)
            for word in self._word_pattern.findall(self._clean(segment))
            for token_id in ([special_ids[word]] if word in special_ids else encode_word(word))
        ]

    def decode(self, token_id: int) -> str:
        """A token as text; one that does not end a word ends in a hyphen."""
        return _clip_bpe().decode(token_id)

    @property
    def _special_pattern(self) -> str:
        return f"{regex.escape(self.bos_token)}|{regex.escape(self.eos_token)}"

    @cached_property
    def _word_pattern(self) -> regex.Pattern[str]:
        """A run of letters, one digit, or a run of other symbols; an English contraction's ending is a word of its own."""
        contraction = "'s|'t|'re|'ve|'m|'ll|'d"
        return regex.compile(
            rf"{self._special_pattern}|{contraction}|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
        )

    def _segments(self, text: str) -> list[str]:
        """What is cleaned separately: transformers splits OpenAI's CLIP prompts at special tokens first."""
        return [text] if self.unescape_html else regex.split(f"({self._special_pattern})", text)

    def _clean(self, text: str) -> str:
        """Lower case, single spaces, and neither mojibake nor typographic quotes nor ligatures."""
        fixed = ftfy.fix_text(text)
        if self.unescape_html:
            fixed = html.unescape(html.unescape(fixed))
        return " ".join(fixed.split()).lower()


CLIP_TOKENIZER = Tokenizer("<|startoftext|>", "<|endoftext|>")
"""OpenAI's CLIP as transformers implements it: Stable Diffusion 1 and SDXL's first text encoder."""

OPENCLIP_TOKENIZER = Tokenizer("<start_of_text>", "<end_of_text>", unescape_html=True)
"""OpenCLIP: Stable Diffusion 2 and SDXL's second text encoder."""


def _bytes_to_unicode() -> Iterator[tuple[int, str]]:
    """For each byte its symbol in the vocabulary: the printable Latin-1 character, else one from U+0100 on."""
    substitute = 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            yield byte, chr(byte)
        else:
            yield byte, chr(substitute)
            substitute += 1
