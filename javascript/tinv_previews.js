// Previews as a table, prompt × step; what there was before training stays in view. Images are loaded one by one, newest
// first. What is to be avoided is previewed in pairs: beside its steps stands the same prompt and seed without the word.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const MOST_ATTEMPTS = 3; // to load an image
    const SCROLL_END_PX = 40; // so close to the end, the table follows new steps
    const PAIRS_CAPTION = "Each row: the same prompt and seed, first without {}, then with it in the negative prompt.";
    let cells = new Map(); // by previewKey: {element, img, event, attempts, isLoaded}
    let drawnKey = "";
    let isLoading = false;

    const previews = (tinv.previews = {
        /** The table's axes: rows, each with the event of one of its previews, and steps. */
        axes() {
            const rows = new Map();
            const steps = new Set();
            for (const event of tinv.run.history.previews.values()) {
                if (isWithoutWord(event)) continue;
                rows.set(`${event.prompt_index}-${event.seed_index}`, event);
                steps.add(event.step);
            }
            const inOrder = (a, b) => a.prompt_index - b.prompt_index || a.seed_index - b.seed_index;
            return { rows: [...rows.values()].sort(inOrder), steps: [...steps].sort((a, b) => a - b) };
        },

        /** The event of the preview in a row at a step. */
        at: (row, step) => tinv.run.history.previews.get(tinv.run.previewKey({ ...row, step })),

        /** The preview of a row's prompt and seed without the word, where previews are pairs. */
        withoutWord: (row) => {
            const all = [...tinv.run.history.previews.values()].filter(isWithoutWord);
            return all.find((event) => event.prompt === row.prompt && event.seed_index === row.seed_index);
        },

        /** The small image of a preview, if it has been loaded. */
        thumbnail(event) {
            const cell = cells.get(tinv.run.previewKey(event));
            return cell && cell.img.getAttribute("src");
        },

        /** How Python's actions name a preview. */
        idOf: ({ step, prompt_index, seed_index }) => ({
            run: tinv.run.id,
            step,
            prompt: prompt_index,
            seed: seed_index,
        }),
    });

    /** Whether a preview is the half of a pair whose prompts do not name the word. */
    function isWithoutWord({ prompt, negative_prompt }) {
        const { kind, name } = tinv.run.report || {};
        if (kind !== "negative" || negative_prompt === undefined) return false;
        return !`${prompt} ${negative_prompt}`.toLowerCase().includes(name.toLowerCase());
    }

    const arePairs = () => [...tinv.run.history.previews.values()].some(isWithoutWord);

    // The table

    function previewCell(event) {
        const key = tinv.run.previewKey(event);
        const cell = cells.get(key);
        if (cell && cell.event.time === event.time) return cell.element;
        const withoutWord = isWithoutWord(event);
        const alt = withoutWord ? `Without the word: ${event.prompt}` : `Step ${event.step}: ${event.prompt}`;
        const img = h("img", {
            alt,
            decoding: "async",
            "data-step": event.step,
            "data-prompt": event.prompt,
            "data-negative-prompt": event.negative_prompt,
            "data-seed": event.seed_index,
        });
        const onclick = () => tinv.viewer.open(event);
        const open = h("button.tinv-preview", { "aria-label": `${alt}. Show larger`, onclick }, img);
        const isPinned = !arePairs() && event.step === 0;
        const element = withoutWord ? open : h(isPinned ? "td.tinv-pinned" : "td", {}, open);
        cells.set(key, { element, img, event, attempts: 0, isLoaded: false });
        return element;
    }

    function useButton(step) {
        const onclick = () => tinv.actions.useStep(tinv.run.id, step, byId("tinv_previews_note"));
        const title = `Use step ${step} for this word`;
        return h("button.tinv-button.tinv-use", { "data-use": step, title, onclick }, "Use this step");
    }

    function columnHeading(step) {
        const badge = tinv.best.badge(step);
        return h(
            step === 0 && !arePairs() ? "th.tinv-pinned" : "th",
            { scope: "col", "data-column": step },
            h(
                "div.tinv-column-head",
                {},
                h("span", {}, ...(step === 0 ? ["Before training"] : tinv.phrase("Step {}", step))),
                badge ? h("span.tinv-badge", {}, badge) : null,
                step === 0 ? null : useButton(step),
            ),
        );
    }

    /** A row's prompt above it, whole: prompts often differ at their end. */
    function promptLine(row, rows, columnCount) {
        const hasSeveralSeeds = rows.some(
            (other) => other.prompt_index === row.prompt_index && other.seed_index !== row.seed_index,
        );
        const text = row.prompt + (hasSeveralSeeds ? ` · seed ${row.seed}` : "");
        const cell = h("th", { scope: "rowgroup", colspan: columnCount }, h("span.tinv-prompt", {}, text));
        return h("tr", {}, cell);
    }

    function table({ rows, steps }) {
        const pairs = arePairs();
        const columnCount = steps.length + pairs;
        const corner = pairs ? [h("th.tinv-pinned", { scope: "col" }, "Without the word")] : [];
        const head = h("tr", {}, ...corner, ...steps.map(columnHeading));
        const bodies = rows.map((row) => {
            const withoutWord = previews.withoutWord(row);
            const pinned = pairs ? [h("th.tinv-pinned", {}, withoutWord && previewCell(withoutWord))] : [];
            const rowCells = steps.map((step) => {
                const event = previews.at(row, step);
                return event ? previewCell(event) : h("td");
            });
            return h("tbody", {}, promptLine(row, rows, columnCount), h("tr", {}, ...pinned, ...rowCells));
        });
        const element = h("table", {}, h("thead", {}, head), ...bodies);
        element.style.setProperty("--tinv-columns", columnCount);
        return element;
    }

    /** Replaces the table; the scroll position stays, or follows new steps if it was at the end. */
    function rebuild(axes) {
        const gallery = byId("tinv_previews_gallery");
        const old = gallery.querySelector(".tinv-scroll");
        const wasAtEnd = !old || old.scrollLeft + old.clientWidth >= old.scrollWidth - SCROLL_END_PX;
        const oldLeft = old ? old.scrollLeft : 0;
        const label = "Previews, one row per prompt, one column per step";
        const scroll = h("div.tinv-scroll", { role: "group", "aria-label": label }, table(axes));
        const { name } = tinv.run.report || {};
        const caption = arePairs() ? [h("p.tinv-hint", {}, ...tinv.phrase(PAIRS_CAPTION, name))] : [];
        const note = byId("tinv_previews_note") || h("p.tinv-hint", { id: "tinv_previews_note", role: "status" });
        const focused = document.activeElement;
        const hadFocus = gallery.contains(focused);
        gallery.replaceChildren(...caption, scroll, note);
        scroll.scrollLeft = wasAtEnd ? scroll.scrollWidth : oldLeft;
        if (wasAtEnd && !tinv.run.active) showRecommended(scroll);
        if (hadFocus && focused.isConnected) focused.focus({ preventScroll: true });
    }

    /** Scrolls back to the step to use, if it lies before what is visible. */
    function showRecommended(scroll) {
        const heading = scroll.querySelector(`[data-column="${tinv.best.recommendation().step}"]`);
        if (!heading) return;
        const pinned = scroll.querySelector(".tinv-pinned");
        const left = heading.offsetLeft - (pinned ? pinned.offsetWidth : 0);
        if (left < scroll.scrollLeft) scroll.scrollLeft = left;
    }

    function draw() {
        const axes = previews.axes();
        if (!axes.steps.length) return drawEmpty();
        const key = JSON.stringify([
            tinv.run.id,
            axes.steps,
            axes.rows.map((row) => row.prompt),
            [...tinv.run.history.previews.values()].map((event) => event.time),
            axes.steps.map(tinv.best.badge),
        ]);
        if (key !== drawnKey) {
            drawnKey = key;
            rebuild(axes);
        }
        for (const button of byId("tinv_previews_gallery").querySelectorAll("[data-use]"))
            tinv.setHidden(button, !tinv.best.offers(Number(button.dataset.use)));
        loadImages();
    }

    function drawEmpty() {
        const { run } = tinv;
        const expectsPreviews = run.submitting || (run.active && (!run.report || run.report.previewed));
        const key = expectsPreviews ? "expected" : run.id ? "none" : "idle";
        if (drawnKey === key) return;
        drawnKey = key;
        const text = {
            expected: "The first previews will appear here shortly.",
            none: "This training has no previews.",
        }[key];
        byId("tinv_previews_gallery").replaceChildren(...(text ? [h("div.tinv-empty", {}, text)] : []));
    }

    // The images

    const nextToLoad = () =>
        [...cells.values()]
            .filter((cell) => !cell.isLoaded && cell.attempts < MOST_ATTEMPTS)
            .sort(
                ({ event: a }, { event: b }) =>
                    isWithoutWord(b) - isWithoutWord(a) || b.step - a.step || a.prompt_index - b.prompt_index,
            )[0];

    async function loadImages() {
        if (isLoading) return;
        isLoading = true;
        for (let cell; (cell = nextToLoad()); ) {
            const requestedRun = tinv.run.id;
            cell.attempts += 1;
            try {
                const args = { ...previews.idOf(cell.event), full: false };
                const { image } = await tinv.call("preview", args, { queue: "preview" });
                if (tinv.run.id !== requestedRun) continue;
                cell.isLoaded = true;
                cell.img.src = image;
            } catch (error) {
                if (error.offline) break; // the next poll tries again
            }
        }
        isLoading = false;
    }

    tinv.ready(() => {
        tinv.on("run-followed", () => {
            cells = new Map();
            drawnKey = "";
            byId("tinv_previews_gallery").replaceChildren();
        });
        tinv.on("step-used", draw);
        tinv.on("run-updated", draw);
        draw();
    });
})();
