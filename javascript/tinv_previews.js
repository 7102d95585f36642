// Previews as a table, prompt × step, beside the user's own pictures. The images come one after another, newest first.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);
    const TRIES = 3;
    let cells = new Map(),
        pinned = [],
        shape = "",
        loading = false,
        usedStep = null;

    const previews = (tinv.previews = {
        /** Rows (prompt, seed) and columns (steps) of what there is. */
        axes() {
            const rows = new Map(),
                steps = new Set();
            for (const event of tinv.run.line.previews.values()) {
                rows.set(`${event.prompt_index}-${event.seed_index}`, event);
                steps.add(event.step);
            }
            const order = (a, b) => a.prompt_index - b.prompt_index || a.seed_index - b.seed_index;
            return { rows: [...rows.values()].sort(order), steps: [...steps].sort((a, b) => a - b) };
        },
        at: (step, row) => tinv.run.line.previews.get(`${step}-${row.prompt_index}-${row.seed_index}`),
        thumb: (event) => {
            const cell = cells.get(keyOf(event));
            return cell && cell.img.getAttribute("src");
        },
        suggestion,
    });

    const keyOf = (event) => `${event.step}-${event.prompt_index}-${event.seed_index}`;

    /** The step to use, and why; none before there is a reason. */
    function suggestion() {
        const { line, data } = tinv.run,
            { steps } = previews.axes();
        if (usedStep !== null && steps.includes(usedStep)) return { step: usedStep, reason: "In use" };
        const measured = [...line.validation].filter(([step]) => line.snapshots.has(step));
        if (measured.length)
            return { step: measured.sort((a, b) => a[1] - b[1])[0][0], reason: "Closest to pictures it never saw" };
        if (data && data.state === "finished" && steps.length)
            return { step: steps[steps.length - 1], reason: "In use: the end of the training" };
        return { step: null, reason: "" };
    }

    const canUse = (step) =>
        tinv.run.line.snapshots.has(step) ||
        Boolean(tinv.run.data && tinv.run.data.state === "finished" && step === tinv.run.data.step);

    function cell(event) {
        const key = keyOf(event);
        let made = cells.get(key);
        if (made && made.time === event.time) return made.element;
        const img = h("img", {
            alt: `Step ${event.step}: ${event.prompt}`,
            decoding: "async",
            "data-step": event.step,
            "data-prompt": event.prompt,
            "data-seed": event.seed_index,
        });
        const open = h(
            "button.tinv-preview",
            {
                "aria-label": `Step ${event.step}: ${event.prompt}. Show larger`,
                onclick: () => tinv.viewer.open(event),
            },
            img,
        );
        made = {
            element: h("td", {}, open, useButton(event.step)),
            img,
            event,
            time: event.time,
            tries: 0,
            done: false,
        };
        cells.set(key, made);
        return made.element;
    }

    const useButton = (step) =>
        h(
            "button.tinv-use",
            { "data-use": step, title: `Make step ${step} the word that prompts use`, onclick: () => use(step) },
            "Use this step",
        );
    const use = (step) => tinv.actions.use(tinv.run.id, step, {}, tinv.byId("tinv_previews_note"));

    function heading(step) {
        const { step: best, reason } = suggestion();
        const badge = step === best ? h("span.tinv-badge", {}, reason) : null;
        return h(
            "th",
            { scope: "col", "data-column": step },
            h("span", {}, ...tinv.words("Step {}", step), step === 0 ? ", before" : ""),
            badge,
        );
    }

    function build({ rows, steps }) {
        const place = tinv.byId("tinv_previews_gallery");
        const old = place.querySelector(".tinv-scroll");
        const atEnd = !old || old.scrollLeft + old.clientWidth >= old.scrollWidth - 40;
        const left = old ? old.scrollLeft : 0;
        const head = h(
            "tr",
            {},
            h("th.tinv-pinned", { scope: "col" }, pinned.length ? "Your pictures" : "Prompt"),
            ...steps.map(heading),
        );
        const lines = rows.map((row, i) => {
            const seeds = rows.some(
                (other) => other.prompt_index === row.prompt_index && other.seed_index !== row.seed_index,
            );
            const text = row.prompt + (seeds ? ` · seed ${row.seed}` : "");
            const own = pinned.length ? h("div.tinv-own", { role: "img", "aria-label": "One of your pictures" }) : null;
            if (own) own.style.backgroundImage = `url("${pinned[i % pinned.length]}")`;
            const first = h("th.tinv-pinned", { scope: "row" }, own, h("span.tinv-prompt", { title: text }, text));
            return h(
                "tr",
                {},
                first,
                ...steps.map((step) => {
                    const event = previews.at(step, row);
                    return event ? cell(event) : h("td");
                }),
            );
        });
        const table = h("table", {}, h("thead", {}, head), h("tbody", {}, ...lines));
        const scroll = h(
            "div.tinv-scroll",
            { tabindex: "0", role: "group", "aria-label": "Previews, one row per prompt, one column per step" },
            table,
        );
        const note = tinv.byId("tinv_previews_note") || h("p.tinv-hint", { id: "tinv_previews_note", role: "status" });
        place.replaceChildren(scroll, note);
        scroll.scrollLeft = atEnd ? scroll.scrollWidth : left;
    }

    function draw() {
        const place = tinv.byId("tinv_previews_gallery"),
            axes = previews.axes();
        if (!axes.steps.length) return empty(place);
        const { step, reason } = suggestion();
        const now = JSON.stringify([
            tinv.run.id,
            axes.steps,
            axes.rows.map((row) => row.prompt),
            [...tinv.run.line.previews.values()].map((event) => event.time),
            step,
            reason,
            pinned.length,
            pinned[0] && pinned[0].length,
        ]);
        if (now !== shape) {
            shape = now;
            const focused = document.activeElement,
                inside = place.contains(focused);
            build(axes);
            if (inside && focused.isConnected) focused.focus({ preventScroll: true });
        }
        for (const button of place.querySelectorAll("[data-use]")) button.hidden = !canUse(Number(button.dataset.use));
        load();
    }

    function empty(place) {
        const { run } = tinv,
            coming = run.asking || (run.active && (!run.data || run.data.previewed)),
            kind = coming ? "wait" : run.id ? "none" : "idle";
        if (shape === kind) return;
        shape = kind;
        const steps = [
            "Add 3–30 pictures of one thing, person or style.",
            "Invent a word for it.",
            "Press Train and watch previews appear here.",
        ];
        place.replaceChildren(
            kind === "idle"
                ? h("div.tinv-empty", {}, h("ol", {}, ...steps.map((text) => h("li", {}, text))))
                : h(
                      "div.tinv-empty",
                      {},
                      kind === "wait"
                          ? "The first previews appear here before learning begins, to compare with."
                          : "This run has no previews.",
                  ),
        );
    }

    async function load() {
        if (loading) return;
        loading = true;
        for (let next; (next = following());) {
            const run = tinv.run.id,
                { event } = next;
            next.tries += 1;
            try {
                const { image } = await tinv.call(
                    "preview",
                    { run, step: event.step, prompt: event.prompt_index, seed: event.seed_index, full: false },
                    { lane: "preview" },
                );
                if (tinv.run.id === run) Object.assign(next, { done: true }).img.src = image;
            } catch (error) {
                if (error.offline) break; // the next poll comes back to it
            }
        }
        loading = false;
    }

    const following = () =>
        [...cells.values()]
            .filter((one) => !one.done && one.tries < TRIES)
            .sort((a, b) => b.event.step - a.event.step || a.event.prompt_index - b.event.prompt_index)[0];

    /** The user's pictures of this run, to stand beside its previews. A run that has not kept them does without. */
    async function pin(id) {
        pinned = id && id === tinv.memory.get("trained") ? tinv.pictures.thumbs : []; // at once, where they are at hand
        if (!id) return;
        try {
            const { pictures } = await tinv.call("run_pictures", { run: id }, { lane: "preview" });
            if (tinv.run.id !== id) return;
            pinned = pictures;
            draw();
        } catch (error) {
            console.info("Textual Inversion: no pictures of this run:", error.message);
        }
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        tinv.on("follow", (id) => {
            cells = new Map();
            shape = "";
            usedStep = null;
            tinv.byId("tinv_previews_gallery").replaceChildren();
            pin(id);
        });
        tinv.on("used", (id, step) => {
            if (id === tinv.run.id) usedStep = step;
            draw();
        });
        tinv.on("run", draw);
        draw();
    });
})();
