// What follows from the checkpoint's family: which fields there are, what "auto" means, what the word can start from.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    let family = null;

    tinv.family = {
        follow,

        /** Whether a field means anything for the selected checkpoint. */
        has: ({ families }) => !families.length || families.includes(family),

        /** The labels of the fields that belong to other families and hold `text`. */
        elsewhere: (text) =>
            fields()
                .filter((field) => !tinv.family.has(field) && place(field).textContent.toLowerCase().includes(text))
                .map((field) => field.label),
    };

    const fields = () => tinv.form.names().map(tinv.form.field);
    const place = (field) => tinv.byId(field.id);

    function follow(checkpoint) {
        family = (checkpoint && checkpoint.family) || null;
        for (const field of fields()) place(field).classList.toggle("tinv-elsewhere", !tinv.family.has(field));
    }

    function show(reply) {
        follow(reply.checkpoint);
        for (const field of fields()) meaning(field, place(field), (reply.auto || {})[field.name] || "");
        start(reply.start || "");
    }

    /** What "auto" is here: behind the field's help, and in the field itself where that is empty. */
    function meaning(field, wrapper, text) {
        const input = wrapper.querySelector("input, textarea");
        if (input && input.placeholder.startsWith("auto"))
            input.placeholder = text ? `auto: ${text.split(",")[0]}` : "auto";
        const help = wrapper.querySelector("[data-testid='block-info'] + div");
        let note = wrapper.querySelector(".tinv-auto");
        if (!help || (!note && !text)) return;
        if (!note) help.append((note = tinv.h("span.tinv-auto")));
        const told = text ? ` Here: ${text}.` : "";
        if (note.textContent !== told) note.textContent = told;
    }

    /** What is to be said of the embedding that the word starts from. */
    function start(text) {
        const wrapper = tinv.byId("tinv_init_embedding");
        if (!wrapper) return;
        let note = wrapper.querySelector(".tinv-start");
        if (!note) wrapper.append((note = tinv.h("div.tinv-note.tinv-start", { role: "status" })));
        const told = tinv.sentence(text);
        if (note.textContent !== told) note.textContent = told;
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => tinv.on("checked", show));
})();
