// A preview at full size: ← → other prompts, ↑ ↓ other steps, swipes on a phone.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);
    const SWIPE = 40; // pixels
    let dialog = null,
        parts = {},
        row = 0,
        column = 0,
        asked = 0,
        touch = null;

    function make() {
        const go = (label, text, across, along) =>
            h("button.tinv-button", { "aria-label": label, title: label, onclick: () => move(across, along) }, text);
        parts = {
            img: h("img", { alt: "" }),
            title: h("strong", { id: "tinv_viewer_title" }),
            prompt: h("span"),
            note: h("span.tinv-hint", { role: "status" }),
            use: h(
                "button.tinv-button.tinv-primary",
                { onclick: () => tinv.actions.use(tinv.run.id, event().step, {}, parts.note) },
                "Use this step",
            ),
            card: h("button.tinv-button", { onclick: card }, "Make this the card picture"),
        };
        const close = h(
            "button.tinv-button",
            { "aria-label": "Close", title: "Close (Esc)", onclick: () => dialog.close() },
            "✕",
        );
        const frame = h("div.tinv-viewer-frame", { tabindex: "-1", autofocus: true }, parts.img);
        dialog = h(
            "dialog.tinv-viewer",
            { id: "tinv_viewer", "aria-labelledby": "tinv_viewer_title" },
            h("div.tinv-viewer-head", {}, h("div", {}, parts.title, " ", parts.prompt), close),
            frame,
            h(
                "div.tinv-row",
                {},
                go("Earlier step (↑)", "↑ Earlier", 0, -1),
                go("Later step (↓)", "↓ Later", 0, 1),
                go("Previous prompt (←)", "← Prompt", -1, 0),
                go("Next prompt (→)", "Prompt →", 1, 0),
            ),
            h("div.tinv-row", {}, parts.use, parts.card, parts.note),
        );
        dialog.addEventListener("keydown", (event) => {
            const move_ = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
            if (!move_) return;
            event.preventDefault();
            event.stopPropagation();
            move(...move_);
        });
        frame.addEventListener("pointerdown", (event) => {
            touch = [event.clientX, event.clientY];
        });
        frame.addEventListener("pointerup", (event) => {
            if (!touch) return;
            const [dx, dy] = [event.clientX - touch[0], event.clientY - touch[1]];
            touch = null;
            if (Math.max(Math.abs(dx), Math.abs(dy)) < SWIPE) return;
            if (Math.abs(dx) > Math.abs(dy)) move(dx < 0 ? 1 : -1, 0);
            else move(0, dy < 0 ? 1 : -1);
        });
        dialog.addEventListener("click", (event) => {
            if (event.target === dialog) dialog.close();
        });
        document.body.append(dialog);
    }

    function event() {
        const { rows, steps } = tinv.previews.axes();
        return tinv.previews.at(steps[column], rows[row]);
    }

    function move(across, along) {
        const { rows, steps } = tinv.previews.axes();
        const nextRow = (row + across + rows.length) % rows.length;
        let nextColumn = column + along;
        while (steps[nextColumn] !== undefined && !tinv.previews.at(steps[nextColumn], rows[nextRow]))
            nextColumn += along || 1;
        if (steps[nextColumn] === undefined) return;
        [row, column] = [nextRow, nextColumn];
        show();
    }

    async function show() {
        const shown = event(),
            mine = ++asked;
        parts.title.replaceChildren(...tinv.words("Step {}", shown.step));
        parts.prompt.textContent = shown.prompt;
        parts.note.replaceChildren();
        parts.img.alt = `Step ${shown.step}: ${shown.prompt}`;
        parts.img.src = tinv.previews.thumb(shown) || "data:,";
        try {
            const { image } = await tinv.call("preview", {
                run: tinv.run.id,
                step: shown.step,
                prompt: shown.prompt_index,
                seed: shown.seed_index,
                full: true,
            });
            if (mine === asked) parts.img.src = image;
        } catch (error) {
            if (mine === asked) parts.note.textContent = tinv.sentence(error.message);
        }
    }

    async function card() {
        const { step, prompt_index, seed_index } = event();
        try {
            await tinv.call("card", { run: tinv.run.id, step, prompt: prompt_index, seed: seed_index });
            parts.note.textContent = "✓ This is the card picture now.";
            tinv.txt2img.refreshHost();
        } catch (error) {
            parts.note.textContent = tinv.sentence(error.message);
        }
    }

    tinv.viewer = {
        open(preview) {
            if (!dialog) make();
            const { rows, steps } = tinv.previews.axes();
            row = Math.max(
                0,
                rows.findIndex(
                    (one) => one.prompt_index === preview.prompt_index && one.seed_index === preview.seed_index,
                ),
            );
            column = steps.indexOf(preview.step);
            dialog.showModal();
            show();
        },
    };
})();
