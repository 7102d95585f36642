// What goes with the form's fields: the word's message, the checkpoint, the tokens, the search among settings.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);

    const link = (label, action) => h("button.tinv-link", { onclick: action }, label);

    function nameNote(reply) {
        const { state, message, suggestion } = reply.name || {};
        const rename = (text) =>
            link(text, () => {
                tinv.form.apply({ name: suggestion, overwrite: false });
                focusName();
            });
        const parts = [];
        if (state === "free") parts.push(mark("ok", "✓"), message || "Free to use");
        else if (state === "taken" && tinv.form.values.overwrite) {
            parts.push(
                mark("warn", "!"),
                "The old one will be replaced. ",
                link("keep it", () => tinv.form.apply({ overwrite: false })),
            );
        } else if (state === "taken") {
            parts.push(
                mark("warn", "!"),
                "Already exists: ",
                link("replace", () => tinv.form.apply({ overwrite: true })),
            );
            if (suggestion) parts.push(", or ", rename(`save as ${suggestion}`));
        } else if (state && state !== "empty") {
            parts.push(mark(state === "bad" ? "bad" : "warn", "!"), tinv.sentence(message || ""));
            if (suggestion) parts.push(" ", rename(`use ${suggestion}`));
        }
        const note = [h("div", {}, ...parts)];
        if (reply.earlier && state !== "running") {
            note.push(
                h(
                    "div",
                    {},
                    link("Use the settings of its last training", () => tinv.runs.useSettings(reply.earlier)),
                ),
            );
        }
        tinv.fill(tinv.byId("tinv_name_note"), ...note);
    }

    const mark = (kind, sign) => h(`span.tinv-mark.tinv-${kind}`, { "aria-hidden": "true" }, sign, " ");
    const focusName = () => {
        const input = document.querySelector("#tinv_name input, #tinv_name textarea");
        if (input) input.focus();
    };

    function checkpointNote(checkpoint) {
        const place = tinv.byId("tinv_checkpoint");
        if (!checkpoint)
            return tinv.fill(place, mark("bad", "!"), "No checkpoint is selected. Choose one at the top of the page.");
        const family = checkpoint.family_title || checkpoint.family;
        const about = [family, checkpoint.resolution && `${checkpoint.resolution} pixels`].filter(Boolean).join(", ");
        const title = h("span.tinv-checkpoint-title", { title: checkpoint.title }, checkpoint.title);
        const line = [h("span", {}, "For the checkpoint "), title, about ? h("span", {}, ` · ${about}`) : null];
        if (checkpoint.problem) line.push(h("div.tinv-field-error", {}, tinv.sentence(checkpoint.problem)));
        tinv.fill(place, ...line);
    }

    function sequence(tokens) {
        const place = tinv.byId("tinv_sequence");
        if (!tokens || !tokens.length) return place.replaceChildren();
        const chips = tokens.map(({ text, ours }) =>
            h(`li.tinv-chip${ours ? ".tinv-ours" : ""}`, ours ? { title: "learned" } : {}, text),
        );
        tinv.fill(
            place,
            h(
                "p.tinv-hint",
                {},
                "The prompt as the model reads it. What is framed is learned; the rest stays as it is.",
            ),
            h("ul.tinv-chips", { "aria-label": "Tokens" }, ...chips),
        );
    }

    function search(text) {
        const wanted = text.trim().toLowerCase();
        let found = 0;
        for (const group of document.querySelectorAll("#tinv_advanced .tinv-group")) {
            let inGroup = 0;
            const heading = group.querySelector("h4");
            const all = heading && heading.textContent.toLowerCase().includes(wanted);
            for (const field of group.querySelectorAll(".tinv-field:not(.tinv-elsewhere)")) {
                const hit = !wanted || all || field.textContent.toLowerCase().includes(wanted);
                field.classList.toggle("tinv-off", !hit);
                inGroup += hit;
            }
            group.classList.toggle("tinv-off", !inGroup);
            found += inGroup;
        }
        const elsewhere = wanted ? tinv.family.elsewhere(wanted) : [];
        const told = found || elsewhere.length ? `${found} found` : `Nothing is called “${text.trim()}”`;
        const others = elsewhere.length ? `. Not for this checkpoint: ${elsewhere.join("; ")}` : "";
        tinv.byId("tinv_search_note").textContent = wanted ? told + others : "";
    }

    /** Opens the folded settings. */
    tinv.openAdvanced = () => {
        const lid = advancedLid();
        if (lid && !lid.classList.contains("open")) lid.click();
    };
    const advancedLid = () => document.querySelector("#tinv_advanced .label-wrap");

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        tinv.on("checked", (reply) => {
            nameNote(reply);
            checkpointNote(reply.checkpoint);
            sequence(reply.sequence);
        });
        tinv.byId("tinv_search").addEventListener("input", (event) => search(event.target.value));
        tinv.byId("tinv_reset_all").addEventListener("click", () => tinv.form.reset());
        const lid = advancedLid();
        if (lid && lid.tagName !== "BUTTON") {
            // gradio 3.41 gives it no role and no keyboard
            lid.tabIndex = 0;
            lid.setAttribute("role", "button");
            const tell = () => lid.setAttribute("aria-expanded", lid.classList.contains("open"));
            new MutationObserver(tell).observe(lid, { attributeFilter: ["class"] });
            tell();
            lid.addEventListener("keydown", (event) => {
                if (event.target !== lid || !["Enter", " "].includes(event.key)) return;
                event.preventDefault();
                lid.click();
            });
        }
    });
})();
