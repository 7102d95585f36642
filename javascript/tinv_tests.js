// The test pictures of a finished word: prompts of different kinds, which show whether it can be used.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const images = new Map(); // by key of the event, its data URL
    let drawnKey = "";
    let isLoading = false;

    tinv.tests = { events };

    const keyOf = (event) => `${tinv.run.id} ${event.prompt_index} ${event.time}`;
    const isNegative = () => Boolean(tinv.run.report && tinv.run.report.kind === "negative");

    /** In the order of their prompts; of each pair of a word to avoid, first the one without it. */
    function events() {
        const all = [...tinv.run.history.tests.values()];
        const position = ({ prompt_index: i }) => (isNegative() ? i ^ 1 : i);
        return all.sort((a, b) => position(a) - position(b));
    }

    function figure(event) {
        const { prompt, negative_prompt } = event;
        const label = /^prompt \d/.test(event.label) ? "your prompt" : event.label;
        const alt = negative_prompt ? `${prompt}, negative prompt: ${negative_prompt}` : prompt;
        const img = h("img", { alt, "data-test": event.prompt_index, src: images.get(keyOf(event)) });
        const source = { action: "test_picture", run: tinv.run.id, prompt: event.prompt_index, full: true };
        const open = () => tinv.viewer.show(label, alt, img.src, source);
        return h(
            "figure",
            {},
            h("button.tinv-preview", { "aria-label": `${label}: ${alt}. Show larger`, onclick: open }, img),
            h("figcaption", {}, h("b", {}, label), h("span", {}, alt)),
        );
    }

    function draw() {
        const all = events();
        const key = all.map(keyOf).join();
        const element = byId("tinv_tests");
        tinv.setHidden(element, !all.length || tinv.run.active);
        if (key !== drawnKey) {
            drawnKey = key;
            element.replaceChildren(
                h("h4", {}, "Tested with other prompts"),
                h(`div.tinv-tests${isNegative() ? ".tinv-pairs" : ""}`, {}, ...all.map(figure)),
            );
        }
        load();
    }

    async function load() {
        if (isLoading) return;
        isLoading = true;
        for (let event; (event = events().find((other) => !images.has(keyOf(other)))); ) {
            const key = keyOf(event);
            const args = { run: tinv.run.id, prompt: event.prompt_index };
            images.set(key, "");
            try {
                images.set(key, (await tinv.call("test_picture", args, { queue: "preview" })).image);
            } catch (error) {
                if (error.offline) images.delete(key); // the next poll tries again
                if (error.offline) break;
            }
            const img = byId("tinv_tests").querySelector(`[data-test="${event.prompt_index}"]`);
            if (img && keyOf(event) === key && images.get(key)) img.src = images.get(key);
        }
        isLoading = false;
    }

    tinv.ready(() => {
        tinv.on("run-updated", draw);
    });
})();
