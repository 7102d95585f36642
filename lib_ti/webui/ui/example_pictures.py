"""What stands beside the empty form: a word that was learned, before and after."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

_FOLDER = Path(__file__).with_name("example")
_PROMPT = "my-coin in the snow"
_PICTURES = (
    ("photo", "One of the photos", "A blue coin with a square hole"),
    ("before", "Before", f"{_PROMPT}, before training: a pot"),
    ("after", "After", f"{_PROMPT}, after training: a coin"),
)
"""By file name: the caption, and a description for those who do not see the picture."""


def example_pictures() -> str:
    """The example as HTML. The scripts show it while there is no training to show."""
    figures = "".join(
        f'<figure><img src="data:image/jpeg;base64,{base64.b64encode((_FOLDER / f"{name}.jpg").read_bytes()).decode()}"'
        f' alt="{escape(description)}"><figcaption>{caption}</figcaption></figure>'
        for name, caption, description in _PICTURES
    )
    return f"""
<div id="tinv_intro">
  <h4>For example, six photos of a coin</h4>
  <div class="tinv-intro-pictures">{figures}</div>
  <p class="tinv-hint">Before and after use the prompt <q>{_PROMPT}</q>. Your previews will appear here.</p>
</div>
"""
