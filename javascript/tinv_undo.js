// Whatever replaces or removes what somebody has entered can be undone: one offer at a time, until the next change.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;

    tinv.undo = {
        /** Offers to undo what was done last. `undo` may be asynchronous. */
        offer(text, undo) {
            const onUndo = async () => {
                dismiss();
                try {
                    await undo();
                    tinv.announce("Undone");
                } catch (error) {
                    tinv.problems.showError(error);
                }
            };
            const close = { title: "Dismiss", "aria-label": "Dismiss", onclick: dismiss };
            byId("tinv_undo").replaceChildren(
                h("span", {}, text),
                h("button.tinv-button", { id: "tinv_undo_button", onclick: onUndo }, "Undo"),
                h("button.tinv-hide", close, tinv.icon("cross")),
            );
            tinv.setHidden(byId("tinv_undo"), false);
        },

        dismiss,

        /** Changes the form, and offers to undo that; `undoMore` undoes what else `change` has changed. */
        async formChange(text, change, undoMore = () => {}) {
            await tinv.form.collect();
            const before = { ...tinv.form.values };
            await change();
            tinv.undo.offer(text, async () => {
                tinv.form.apply(before);
                await undoMore();
            });
        },
    };

    function dismiss() {
        tinv.setHidden(byId("tinv_undo"), true);
        byId("tinv_undo").replaceChildren();
    }

    tinv.ready(() => tinv.on("run-submitted", dismiss));
})();
