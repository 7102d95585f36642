// A preview at full size, or both of a pair: ← → other prompts, ↑ ↓ other steps, swipes on a phone.
(() => {
    "use strict";
    const { tinv } = window;
    const { h } = tinv;
    const SWIPE_PX = 40;
    const KEY_MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }; // rows, columns
    let dialog = null; // built when it is first opened
    let image, otherImage, otherFigure, caption, title, prompt, note;
    let row = 0; // of the table of previews
    let column = 0;
    let touchStart = null;
    let latestRequest = 0;

    tinv.viewer = { open, show };

    function open(preview) {
        if (!dialog) build();
        const { rows, steps } = tinv.previews.axes();
        const isSameRow = (other) =>
            other.prompt_index === preview.prompt_index && other.seed_index === preview.seed_index;
        const isRow = (other) => isSameRow(other) || tinv.previews.withoutWord(other) === preview;
        row = Math.max(0, rows.findIndex(isRow));
        column = rows.some(isSameRow) ? steps.indexOf(preview.step) : steps.length - 1;
        dialog.showModal();
        draw();
    }

    /** Shows one picture that is no preview: the reply of an action of Python to `args`, at first its `thumbnail`. */
    async function show(heading, text, thumbnail, { action, ...args }) {
        if (!dialog) build();
        setUp({ heading: [heading], text, isPreview: false });
        dialog.showModal();
        await load(image, thumbnail, action, args);
    }

    function build() {
        const button = (content, onclick, properties = {}) => h("button.tinv-button", { ...properties, onclick }, content);
        const moveButton = (label, icon, text, rows, columns) =>
            button([tinv.icon(icon), text], () => move(rows, columns), { "aria-label": label, title: label });
        image = h("img", { alt: "" });
        otherImage = h("img", { alt: "" });
        otherFigure = h("figure", {}, otherImage, h("figcaption", {}, "Without the word"));
        caption = h("figcaption", {}, "With it in the negative prompt");
        title = h("strong", { id: "tinv_viewer_title" });
        prompt = h("span");
        note = h("span.tinv-hint", { role: "status" });
        const use = button("Use this step", () => tinv.actions.useStep(tinv.run.id, currentPreview().step, note));
        use.classList.add("tinv-primary");
        const figure = h("figure", {}, image, caption);
        const frame = h("div.tinv-viewer-frame", { tabindex: "-1", autofocus: true }, otherFigure, figure);
        dialog = h(
            "dialog.tinv-viewer",
            { id: "tinv_viewer", "aria-labelledby": title.id },
            h(
                "div.tinv-viewer-head",
                {},
                h("div", {}, title, " ", prompt),
                button(tinv.icon("cross"), () => dialog.close(), { "aria-label": "Close", title: "Close (Esc)" }),
            ),
            frame,
            h(
                "div.tinv-row",
                {},
                moveButton("Earlier step (arrow up)", "up", "Earlier", 0, -1),
                moveButton("Later step (arrow down)", "down", "Later", 0, 1),
                moveButton("Previous prompt (arrow left)", "left", "Prompt", -1, 0),
                moveButton("Next prompt (arrow right)", "right", "Prompt", 1, 0),
            ),
            h("div.tinv-row", {}, use, button("Use as card picture", makeCard), note),
        );
        dialog.addEventListener("keydown", onKey);
        dialog.addEventListener("click", (event) => {
            if (event.target === dialog) dialog.close(); // beside it
        });
        frame.addEventListener("pointerdown", (event) => {
            touchStart = [event.clientX, event.clientY];
        });
        frame.addEventListener("pointerup", onPointerUp);
        document.body.append(dialog);
    }

    function currentPreview() {
        const { rows, steps } = tinv.previews.axes();
        return tinv.previews.at(rows[row], steps[column]);
    }

    // Moving

    const showsPreview = () => !dialog.querySelector(":scope > .tinv-row.tinv-hidden");

    function onKey(event) {
        if (!KEY_MOVES[event.key] || !showsPreview()) return;
        event.preventDefault();
        event.stopPropagation();
        move(...KEY_MOVES[event.key]);
    }

    function onPointerUp(event) {
        if (!touchStart || !showsPreview()) return;
        const [dx, dy] = [event.clientX - touchStart[0], event.clientY - touchStart[1]];
        touchStart = null;
        if (Math.max(Math.abs(dx), Math.abs(dy)) < SWIPE_PX) return;
        if (Math.abs(dx) > Math.abs(dy)) move(dx < 0 ? 1 : -1, 0);
        else move(0, dy < 0 ? 1 : -1);
    }

    /** Rows wrap around; columns end, and those without a preview in the row are passed over. */
    function move(rowOffset, columnOffset) {
        const { rows, steps } = tinv.previews.axes();
        const newRow = (row + rowOffset + rows.length) % rows.length;
        let newColumn = column + columnOffset;
        while (steps[newColumn] !== undefined && !tinv.previews.at(rows[newRow], steps[newColumn]))
            newColumn += columnOffset || 1;
        if (steps[newColumn] === undefined) return;
        [row, column] = [newRow, newColumn];
        draw();
    }

    // Content

    function setUp({ heading, text, isPreview, isPair = false }) {
        latestRequest += 1;
        title.replaceChildren(...heading);
        prompt.textContent = text;
        note.replaceChildren();
        image.alt = `${title.textContent}: ${text}`;
        for (const row of dialog.querySelectorAll(":scope > .tinv-row")) tinv.setHidden(row, !isPreview);
        for (const element of [otherFigure, caption]) tinv.setHidden(element, !isPair);
    }

    function draw() {
        const preview = currentPreview();
        const withoutWord = tinv.previews.withoutWord(preview);
        const heading = tinv.phrase("Step {}", preview.step);
        setUp({ heading, text: preview.prompt, isPreview: true, isPair: Boolean(withoutWord) });
        for (const [element, event] of [[image, preview], ...(withoutWord ? [[otherImage, withoutWord]] : [])]) {
            const args = { ...tinv.previews.idOf(event), full: true };
            load(element, tinv.previews.thumbnail(event), "preview", args);
        }
    }

    async function load(element, thumbnail, action, args) {
        const request = latestRequest;
        element.src = thumbnail || "data:,";
        try {
            const reply = await tinv.call(action, args);
            if (request === latestRequest) element.src = reply.image;
        } catch (error) {
            if (request === latestRequest) note.textContent = tinv.format.sentence(error.message);
        }
    }

    async function makeCard() {
        try {
            await tinv.call("card", tinv.previews.idOf(currentPreview()));
            note.replaceChildren(tinv.icon("check"), " Card picture saved.");
            tinv.txt2img.refreshHost();
        } catch (error) {
            note.textContent = tinv.format.sentence(error.message);
        }
    }
})();
