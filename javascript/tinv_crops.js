// "What the trainer sees": the pictures as they are cropped and masked. Requested only while it is open.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const DELAY_MS = 600; // after a change; more changes may follow
    let timer = null;
    let latestRequest = 0;

    function cropItem({ name, width, height, image, mask }) {
        const crop = h("img", { src: image, alt: `${name}, cropped`, loading: "lazy" });
        const frame = h("div.tinv-crop", {}, crop);
        if (mask) frame.append(h("img", { src: mask, alt: `Mask of ${name}. White parts count.`, loading: "lazy" }));
        return h("li", {}, frame, h("div.tinv-hint", { title: name }, `${width}×${height}`));
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
            const { crops } = await tinv.call("crops", args, { queue: "crops", timeoutS: 120 });
            const label = "Your pictures, cropped";
            const list = h("ul.tinv-crops", { "aria-label": label }, ...crops.map(cropItem));
            if (request === latestRequest) box.replaceChildren(list);
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
