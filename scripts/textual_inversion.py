"""The script that the WebUI executes, at start and at each "Reload UI", to load the extension."""

import sys
from pathlib import Path

from modules import scripts

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for this import alone: lib_ti's own later imports are resolved through its __path__
try:
    import lib_ti
finally:
    sys.path.remove(str(ROOT))

PACKAGE = Path(next(iter(getattr(lib_ti, "__path__", None) or [lib_ti.__file__]))).resolve()

if sys.version_info < (3, 10):  # noqa: UP036 - a WebUI may run on an older one
    print(f"Textual Inversion is not loaded: it needs Python 3.10 or later, and this WebUI runs on {sys.version}.")
elif PACKAGE != ROOT / "lib_ti":
    print(
        f"Textual Inversion is not loaded: another extension has a package of its name, {PACKAGE}. Remove one of them."
    )
else:
    from lib_ti.webui.extension import TITLE, get_extension

    extension = get_extension()
    extension.register()

    class TextualInversionPicker(scripts.Script):
        """The accordion in txt2img and img2img; it edits the prompt, so a generation needs nothing from it."""

        def title(self):
            return TITLE

        def show(self, is_img2img):
            return scripts.AlwaysVisible

        def ui(self, is_img2img):
            extension.build_picker(is_img2img)
            return []
