// "What the trainer sees": the pictures as they are cropped and masked. Requested only while it is open.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const PROMPTS_HINT = "Under each picture is one of its prompts; every step draws one of {} templates.";
    const DELAY_MS = 600; // after a change; more changes may follow
    let timer = null;
    let latestRequest = 0;

    /** A prompt, with the word in it marked. */
    function promptLine(prompt) {
        const word = String(tinv.form.values.name || "").trim();
        const parts = word ? prompt.split(word) : [prompt];
        return h("p.tinv-crop-prompt", {}, ...parts.flatMap((part, i) => (i ? [h("b", {}, word), part] : [part])));
    }

    function cropItem({ name, width, height, image, mask, prompt }) {
        const crop = h("img", { src: image, alt: `${name}, cropped`, loading: "lazy" });
        const frame = h("div.tinv-crop", {}, crop);
        if (mask) frame.append(h("img", { src: mask, alt: `Mask of ${name}. White parts count.`, loading: "lazy" }));
        const size = h("div.tinv-hint", { title: name }, `${width}×${height}`);
        return h("li", {}, frame, size, prompt ? promptLine(prompt) : null);
    }

    async function refresh() {
        if (!byId("tinv_seen").open) return;
        const box = byId("tinv_crops");
        const showHint = (text) => tinv.setContent(box, h("p.tinv-hint", {}, text));
        const request = ++latestRequest;
        if (!tinv.pictures.count) return showHint("Add pictures to see their crops.");
        box.setAttribute("aria-busy", "true");
        try {
            const args = { draft: tinv.pictures.draft, form: tinv.form.payload() };
            const { crops, templates } = await tinv.call("crops", args, { queue: "crops", timeoutS: 120 });
            const label = "Your pictures, cropped";
            const list = h("ul.tinv-crops", { "aria-label": label }, ...crops.map(cropItem));
            const hint = templates > 1 ? h("p.tinv-hint", {}, ...tinv.phrase(PROMPTS_HINT, templates)) : "";
            if (request === latestRequest) box.replaceChildren(hint, list);
        } catch (error) {
            if (request === latestRequest) showHint(tinv.format.sentence(error.message));
        }
        if (request === latestRequest) box.removeAttribute("aria-busy");
    }

    function refreshSoon() {
        clearTimeout(timer);
        timer = setTimeout(refresh, DELAY_MS);
    }

    tinv.ready(() => {
        byId("tinv_seen").addEventListener("toggle", refresh);
        tinv.on("pictures-changed", refreshSoon);
        tinv.on("form-changed", refreshSoon);
    });
})();
