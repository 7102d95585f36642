// Notes at the form's fields: the word, the checkpoint, the prompt's tokens; and the search among the settings.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h, setContent } = tinv;

    const link = (label, onclick) => h("button.tinv-link", { onclick }, label);
    const mark = (kind) => h(`span.tinv-mark.tinv-${kind}`, {}, tinv.icon(kind === "ok" ? "check" : "bang"), " ");

    // The word

    function drawNameNote(reply) {
        const { state } = reply.name || {};
        const note = [h("div", {}, ...nameMessage(reply.name || {}))];
        if (reply.earlier && state !== "running") {
            const useSettings = link("Use its last settings", () =>
                tinv.runs.useSettings(reply.earlier),
            );
            note.push(h("div", {}, useSettings));
        }
        setContent(byId("tinv_name_note"), ...note);
    }

    function nameMessage({ state, message, suggestion }) {
        const setOverwrite = (overwrite) => () => tinv.form.apply({ overwrite });
        const other = suggestion ? link(`Use ${suggestion}`, () => rename(suggestion)) : "";
        if (!state || state === "empty") return [];
        if (state === "free") return [mark("ok"), "Free to use"];
        if (state === "running") return ["This word is in training. ", other];
        if (state === "taken" && tinv.form.values.overwrite)
            return [mark("warn"), "The old word will be replaced. ", link("Keep it", setOverwrite(false))];
        if (state === "taken") {
            const replace = link("Replace it", setOverwrite(true));
            const isNew = tinv.run.state === "finished" && tinv.run.report.name === tinv.form.values.name;
            if (isNew) return [mark("ok"), "Ready to use. To train again: ", replace, " · ", other];
            return [mark("warn"), "This word exists. ", replace, " · ", other];
        }
        return [mark(state === "bad" ? "bad" : "warn"), tinv.format.sentence(message || ""), " ", other];
    }

    function rename(name) {
        tinv.form.apply({ name, overwrite: false });
        const input = document.querySelector("#tinv_name input, #tinv_name textarea");
        if (input) input.focus();
    }

    // The checkpoint, and the prompt's tokens

    function drawCheckpointNote(checkpoint, clipSkip) {
        const note = byId("tinv_checkpoint");
        if (!checkpoint)
            return setContent(note, mark("bad"), "Choose a checkpoint at the top of the page.");
        const family = checkpoint.family_title || checkpoint.family;
        const facts = [family, checkpoint.resolution && `${checkpoint.resolution} pixels`].filter(Boolean).join(", ");
        setContent(
            note,
            h("span", {}, "For the checkpoint "),
            h("span.tinv-checkpoint-title", { title: checkpoint.title }, checkpoint.title),
            facts ? h("span", {}, ` · ${facts}`) : null,
            clipSkip ? drawClipSkipOffer(clipSkip) : null,
            checkpoint.problem ? h("div.tinv-field-error", {}, tinv.format.sentence(checkpoint.problem)) : null,
        );
    }

    /** Offers the CLIP skip that the WebUI generates with. */
    const drawClipSkipOffer = (layer) =>
        h(
            "div",
            {},
            `The WebUI generates with CLIP skip ${layer}. `,
            link("Train with it", () => tinv.form.apply({ clip_skip: layer })),
        );

    function drawTokens(tokens) {
        const list = byId("tinv_sequence");
        if (!tokens || !tokens.length) return list.replaceChildren();
        const chips = tokens.map(({ text, ours: isLearned }) =>
            isLearned ? h("li.tinv-chip.tinv-learned", { title: "Learned" }, text) : h("li.tinv-chip", {}, text),
        );
        const hint = "The prompt as the model reads it. Only the framed parts are learned.";
        setContent(list, h("p.tinv-hint", {}, hint), h("ul.tinv-chips", { "aria-label": "Tokens" }, ...chips));
    }

    // The settings under Advanced

    function search(typed) {
        const text = typed.trim().toLowerCase();
        let hitCount = 0;
        const keywords = Object.fromEntries(tinv.form.fields().map((field) => [field.id, field.keywords]));
        for (const group of document.querySelectorAll("#tinv_basics, #tinv_advanced .tinv-group")) {
            const heading = group.querySelector("h4");
            const headingMatches = heading && heading.textContent.toLowerCase().includes(text);
            let hitsInGroup = 0;
            for (const field of group.querySelectorAll(".tinv-field:not([data-hidden-by~=other-family])")) {
                const words = `${field.textContent} ${keywords[field.id] || ""}`.toLowerCase();
                const isHit = !text || headingMatches || words.includes(text);
                tinv.setHidden(field, !isHit, "search");
                hitsInGroup += isHit;
            }
            if (heading) tinv.setHidden(group, !hitsInGroup, "search");
            hitCount += hitsInGroup;
        }
        const labelsOfOthers = text ? tinv.family.labelsOfOthers(text) : [];
        const others = labelsOfOthers.length ? `. Not for this checkpoint: ${labelsOfOthers.join("; ")}` : "";
        const hits = hitCount || others ? `${hitCount} found` : `No setting matches “${typed.trim()}”`;
        byId("tinv_search_note").textContent = text ? hits + others : "";
    }

    const advancedHeader = () => document.querySelector("#tinv_advanced .label-wrap");

    /** Unfolds Advanced. */
    tinv.openAdvanced = () => {
        const header = advancedHeader();
        if (header && !header.classList.contains("open")) header.click();
    };

    /** The header stays under the pointer while the fields above it, which unfold along with it, come and go. */
    function holdHeaderInPlace(header) {
        header.addEventListener(
            "click",
            () => {
                const { top } = header.getBoundingClientRect();
                setTimeout(() => scrollBy({ top: header.getBoundingClientRect().top - top, behavior: "instant" }), 30);
            },
            true,
        );
    }

    /** gradio 3.41 gives the accordion's header no role and no keyboard. */
    function makeAccessible(header) {
        header.tabIndex = 0;
        header.setAttribute("role", "button");
        const setExpanded = () => header.setAttribute("aria-expanded", header.classList.contains("open"));
        new MutationObserver(setExpanded).observe(header, { attributeFilter: ["class"] });
        setExpanded();
        header.addEventListener("keydown", (event) => {
            if (event.target !== header || !["Enter", " "].includes(event.key)) return;
            event.preventDefault();
            header.click();
        });
    }

    tinv.ready(() => {
        tinv.on("form-checked", (reply) => {
            drawNameNote(reply);
            drawCheckpointNote(reply.checkpoint, reply.clip_skip);
            drawTokens(reply.sequence);
        });
        byId("tinv_search").addEventListener("input", (event) => search(event.target.value));
        byId("tinv_reset_all").addEventListener("click", () =>
            tinv.undo.formChange("All settings are reset.", tinv.form.reset),
        );
        const header = advancedHeader();
        if (header) holdHeaderInPlace(header);
        if (header && header.tagName !== "BUTTON") makeAccessible(header);
    });
})();
