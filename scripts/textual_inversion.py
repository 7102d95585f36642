"""Where the WebUI finds the extension."""

import sys
from pathlib import Path

from modules import scripts

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # only for this import: what lib_ti imports later it finds beside itself
try:
    import lib_ti
finally:
    sys.path.remove(str(ROOT))

FOUND = Path(next(iter(getattr(lib_ti, "__path__", None) or [lib_ti.__file__]))).resolve()

if sys.version_info < (3, 10):  # noqa: UP036 - a WebUI may run on an older one
    print(f"Textual Inversion is not loaded: it needs Python 3.10 or later, and this WebUI runs on {sys.version}.")
elif FOUND != ROOT / "lib_ti":
    print(f"Textual Inversion is not loaded: another extension has a package of its name, {FOUND}. Remove one of them.")
else:
    from lib_ti.webui import extension

    extension.register()

    class TextualInversionPicker(scripts.Script):
        """The accordion in txt2img and img2img; its words go into the prompt, so a generation needs nothing from it."""

        def title(self):
            return extension.TITLE

        def show(self, is_img2img):
            return scripts.AlwaysVisible

        def ui(self, is_img2img):
            extension.make_picker(is_img2img)
            return []
