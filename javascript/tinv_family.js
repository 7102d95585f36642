// What the checkpoint's family decides: which fields apply, what "auto" means, what the embedding can start from.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h, setText } = tinv;
    let family = null;

    tinv.family = {
        /** Whether a field means anything for the selected checkpoint. */
        has: ({ families }) => !families.length || families.includes(family),

        /** Shows the fields of the checkpoint's family, and hides those of others. */
        follow(checkpoint) {
            family = (checkpoint && checkpoint.family) || null;
            for (const field of tinv.form.fields())
                tinv.setHidden(byId(field.id), !tinv.family.has(field), "other-family");
        },

        /** The labels of the fields of other families that contain a text in lower case. */
        labelsOfOthers: (text) =>
            tinv.form
                .fields()
                .filter((field) => !tinv.family.has(field) && byId(field.id).textContent.toLowerCase().includes(text))
                .map((field) => field.label),
    };

    /** Says what "auto" is here: behind the field's help, and in the field itself where that is empty. */
    function drawAuto(wrapper, text) {
        const input = wrapper.querySelector("input, textarea");
        if (input && input.placeholder.startsWith("auto"))
            input.placeholder = text ? `auto: ${text.split(",")[0]}` : "auto";
        const help = wrapper.querySelector("[data-testid='block-info'] + div");
        let note = wrapper.querySelector(".tinv-auto");
        if (!help || (!note && !text)) return;
        if (!note) help.append((note = h("span.tinv-auto")));
        setText(note, text ? ` Here: ${text}.` : "");
    }

    /** Says which part of the model "Start from an embedding" can start. */
    function drawInitNote(text) {
        const wrapper = byId("tinv_init_embedding");
        if (!wrapper) return; // the WebUI does not show its files
        let note = wrapper.querySelector(".tinv-init-note");
        if (!note) wrapper.append((note = h("div.tinv-note.tinv-init-note", { role: "status" })));
        setText(note, tinv.format.sentence(text));
    }

    tinv.ready(() =>
        tinv.on("form-checked", (reply) => {
            tinv.family.follow(reply.checkpoint);
            for (const field of tinv.form.fields()) drawAuto(byId(field.id), (reply.auto || {})[field.name] || "");
            drawInitNote(reply.start || "");
        }),
    );
})();
