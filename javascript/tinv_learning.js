// "Is it learning?": one large preview, moved from before the training to its last step, beside one of the user's pictures.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h, phrase } = tinv;
    const FULL_AFTER_MS = 150; // that the slider has to rest before the large image is asked for
    const MOST_KEPT = 60; // large images
    const fullImages = new Map(); // by key of a preview, its data URL
    let parts = null; // the elements, built when the first preview is there
    let chosenStep = null; // by the user; without one the newest is shown, or the best at the end
    let rowIndex = 0;
    let photoIndex = 0;
    let timer = null;

    const label = (step) => (step === 0 ? ["Before training"] : phrase("Step {}", step));
    const isAvoided = () => Boolean(tinv.run.report && tinv.run.report.kind === "negative");

    function build() {
        const photo = h("img", { alt: "" });
        const photoCaption = h("figcaption");
        const nextPhoto = () => {
            photoIndex += 1;
            draw();
        };
        const photoButton = h("button.tinv-large", { title: "Another picture", onclick: nextPhoto }, photo);
        const preview = h("img", { alt: "", id: "tinv_learning_preview" });
        const open = () => tinv.viewer.open(shown());
        const caption = h("figcaption", { "aria-live": "polite" });
        const slider = h("input.tinv-slider", {
            type: "range",
            id: "tinv_learning_step",
            min: 0,
            "aria-label": "Step",
            oninput: (event) => {
                chosenStep = tinv.previews.axes().steps[Number(event.target.value)];
                draw();
            },
        });
        const prompts = h("select.tinv-input", {
            "aria-label": "Prompt",
            onchange: (event) => {
                rowIndex = Number(event.target.value);
                draw();
            },
        });
        const ends = h("div.tinv-slider-ends", { "aria-hidden": "true" }, h("span", {}, "Before"), h("span"));
        const best = h("div.tinv-row", { id: "tinv_learning_best" });
        const note = h("p.tinv-hint", { role: "status" });
        parts = { photo, photoCaption, photoButton, preview, caption, slider, prompts, ends, best, note };
        byId("tinv_learning").replaceChildren(
            h("h4", {}, "Is it learning?"),
            h(
                "div.tinv-beside",
                {},
                h("figure", {}, photoButton, photoCaption),
                h("figure", {}, h("button.tinv-large", { title: "Show larger", onclick: open }, preview), caption),
            ),
            slider,
            ends,
            prompts,
            best,
            note,
        );
    }

    /** The step that is shown. */
    function step() {
        const { steps } = tinv.previews.axes();
        if (steps.includes(chosenStep)) return chosenStep;
        const { step: best } = tinv.best.recommendation();
        return !tinv.run.active && steps.includes(best) ? best : steps[steps.length - 1];
    }

    /** The event of the preview that is shown; a row may lack a step. */
    function shown() {
        const { rows, steps } = tinv.previews.axes();
        const row = rows[rowIndex % rows.length];
        const earlier = steps.filter((other) => other <= step()).reverse();
        return earlier.concat(steps).map((other) => tinv.previews.at(row, other)).find(Boolean);
    }

    function draw() {
        const { rows, steps } = tinv.previews.axes();
        tinv.setHidden(byId("tinv_learning"), !steps.length);
        if (!steps.length) return;
        if (!parts) build();
        const event = shown();
        drawPhoto(event);
        showImage(parts.preview, event);
        parts.preview.alt = `${event.step === 0 ? "Before training" : `Step ${event.step}`}: ${event.prompt}`;
        const badge = tinv.best.badge(event.step);
        tinv.setContent(parts.caption, ...label(event.step), badge ? h("span.tinv-badge", {}, badge) : null);
        parts.slider.max = steps.length - 1;
        parts.slider.value = steps.indexOf(event.step);
        parts.slider.setAttribute("aria-valuetext", event.step === 0 ? "Before training" : `Step ${event.step}`);
        tinv.setContent(parts.ends.lastChild, ...label(steps[steps.length - 1]));
        drawPrompts(rows);
        drawBest(event.step);
    }

    /** A picture that it learns from; of what is to be avoided, the same prompt and seed without the word. */
    function drawPhoto(event) {
        const withoutWord = isAvoided() && tinv.previews.withoutWord(event);
        const urls = tinv.ownPictures.urls;
        parts.photoButton.disabled = Boolean(withoutWord) || urls.length < 2;
        tinv.setHidden(parts.photoButton.parentElement, !withoutWord && !urls.length);
        if (withoutWord) {
            showImage(parts.photo, withoutWord);
            parts.photo.alt = `Without the word: ${withoutWord.prompt}`;
        } else if (urls.length) {
            const index = photoIndex % urls.length;
            if (parts.photo.getAttribute("src") !== urls[index]) parts.photo.src = urls[index];
            parts.photo.alt = `Your picture ${index + 1}`;
        }
        tinv.setText(parts.photoCaption, withoutWord ? "Without the word" : "Your picture");
    }

    function drawPrompts(rows) {
        tinv.setHidden(parts.prompts, rows.length < 2);
        const texts = rows.map((row) => row.prompt + (rows.some((o) => o !== row && o.prompt === row.prompt) ? ` · seed ${row.seed}` : ""));
        if ([...parts.prompts.options].map((option) => option.textContent).join("\n") !== texts.join("\n"))
            parts.prompts.replaceChildren(...texts.map((text, i) => h("option", { value: i }, text)));
        parts.prompts.value = String(rowIndex % rows.length);
    }

    function drawBest(shownStep) {
        const { step: best } = tinv.best.recommendation();
        const use = (target) => {
            const onclick = () => tinv.actions.useStep(tinv.run.id, target, parts.note);
            return h("button.tinv-button", { "data-use-best": target, onclick }, ...phrase("Use step {}", target));
        };
        const show = () => {
            chosenStep = best;
            draw();
        };
        const content = [];
        if (best !== null) {
            content.push(h("span", {}, ...phrase("Looks best: step {}", best)));
            if (best !== shownStep && tinv.previews.axes().steps.includes(best))
                content.push(h("button.tinv-link", { onclick: show }, "Show it"));
            content.push(tinv.best.offers(best) ? use(best) : null);
        }
        if (shownStep !== best && tinv.best.offers(shownStep)) content.push(use(shownStep));
        const key = JSON.stringify([tinv.run.id, best, shownStep, content.map((part) => part && part.textContent)]);
        if (parts.best.dataset.drawn === key) return;
        parts.best.dataset.drawn = key;
        parts.best.replaceChildren(...content.filter(Boolean));
    }

    // The images: the small one at once, the large one when the slider rests

    function showImage(img, event) {
        const key = `${tinv.run.id} ${tinv.run.previewKey(event)} ${event.time}`;
        const small = tinv.previews.thumbnail(event);
        if (img.dataset.key === key && img.dataset.full) return;
        img.dataset.key = key;
        const full = fullImages.get(key);
        if (full) img.dataset.full = "1";
        else delete img.dataset.full;
        if (full || small) img.src = full || small;
        if (full) return;
        clearTimeout(timer);
        timer = setTimeout(() => loadFull(img, event, key), FULL_AFTER_MS);
    }

    async function loadFull(img, event, key) {
        try {
            const args = { ...tinv.previews.idOf(event), full: true };
            fullImages.set(key, (await tinv.call("preview", args, { queue: "large preview" })).image);
            while (fullImages.size > MOST_KEPT) fullImages.delete(fullImages.keys().next().value);
        } catch (error) {
            return console.info("Textual Inversion: no large preview:", error.message); // the small one stays
        }
        if (img.dataset.key === key) draw();
    }

    tinv.ready(() => {
        tinv.on("run-followed", () => {
            chosenStep = null;
            rowIndex = photoIndex = 0;
            draw();
        });
        for (const event of ["run-updated", "step-used", "own-pictures-loaded"]) tinv.on(event, draw);
    });
})();
