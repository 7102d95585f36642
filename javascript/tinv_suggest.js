// "Suggest" has Python try start words on the pictures, and lists the best; a click puts one into "Looks most like".
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const POLL_MS = 1000;
    const HINT = "Ranks ordinary words by how well they fit your pictures.";
    const AUTO_HINT = "Auto: found from your pictures when training starts.";
    let status = { state: "idle" };
    let error = "";
    let timer = null;

    tinv.suggest = { cancel };

    const isRunning = () => status.state === "running";

    async function start() {
        await update(async () => {
            await tinv.pictures.saved();
            await tinv.form.collect();
            return tinv.call("suggest", { form: tinv.form.payload(), draft: tinv.pictures.draft }, { timeoutS: 120 });
        });
    }

    async function cancel() {
        await update(async () => {
            await tinv.call("cancel_suggest");
            return tinv.call("suggestions");
        });
    }

    const poll = () => update(() => tinv.call("suggestions"));

    /** Shows what a request says, and asks again as long as words are tried. */
    async function update(request) {
        clearTimeout(timer);
        try {
            status = await request();
            error = "";
        } catch (failure) {
            if (!failure.offline) status = { state: "idle" };
            error = failure.message;
        }
        draw();
        if (isRunning()) timer = setTimeout(poll, POLL_MS);
    }

    function use(changes, text) {
        tinv.form.apply(changes);
        tinv.announce(text);
    }

    function draw() {
        const button = byId("tinv_suggest_button");
        tinv.setText(button, isRunning() ? "Cancel" : status.state === "done" ? "Suggest again" : "Suggest");
        tinv.setContent(byId("tinv_suggest_note"), ...note());
        const list = byId("tinv_suggestions");
        const words = status.words || [];
        tinv.setHidden(list, !words.length);
        const best = Math.max(...words.map(({ gain }) => gain), Number.MIN_VALUE);
        list.replaceChildren(...words.map((word) => item(word, best)));
    }

    function note() {
        const { state, message, done, total, words, vectors } = status;
        if (error) return [h("span.tinv-field-error", {}, tinv.format.sentence(error))];
        if (state === "running" && total) return tinv.phrase("Trying words: {} of {}", done, total);
        if (state === "running") return [`${message || "Loading the checkpoint"}…`];
        if (state === "failed")
            return [h("span.tinv-field-error", {}, tinv.format.sentence(message || "no word could be tried"))];
        if (state !== "done") return [tinv.form.values.init_text === "auto" ? AUTO_HINT : HINT];
        if (!words.length) return [tinv.format.sentence(message || "no word fits better than the others")];
        return ["Longer bar, better fit. ", ...vectorsOffer(vectors)];
    }

    function vectorsOffer(vectors) {
        if (!vectors || String(vectors) === String(tinv.form.values.vectors)) return [];
        const take = () => use({ vectors: String(vectors) }, `${vectors} vectors`);
        return [...tinv.phrase("{} vectors would suit your pictures. ", vectors), h("button.tinv-link", { onclick: take }, "Use them")];
    }

    function item({ text, gain }, best) {
        const bar = h("span.tinv-gain", { "aria-hidden": "true" });
        bar.style.width = `${Math.max(0, (100 * gain) / best)}%`;
        const isChosen = text === tinv.form.values.init_text;
        const take = () => use({ init_text: text }, `Looks most like ${text}`);
        const properties = { onclick: take, "aria-pressed": String(isChosen), title: `Start from “${text}”` };
        return h("li", {}, h("button.tinv-suggestion", properties, bar, h("span", {}, text)));
    }

    tinv.ready(() => {
        byId("tinv_suggest_button").addEventListener("click", () => (isRunning() ? cancel() : start()));
        tinv.on("form-changed", draw);
        tinv.on("form-ready", async () => {
            await poll();
            if (!isRunning()) status = { state: "idle" }; // of an earlier visit, perhaps of other pictures
            draw();
        });
        tinv.on("pictures-changed", () => {
            if (isRunning()) return;
            status = { state: "idle" };
            draw();
        });
    });
})();
