// Trying a word in place, under its test pictures: prompts of one's own, three more examples, and a sheet of all pictures.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h, phrase } = tinv;
    const SIDE = 384; // of a picture on the sheet, in pixels
    const GAP = 16;
    const LINE = 18;
    const MORE = {
        subject: ["a drawing of [name]", "[name] at night", "two of [name] on grass"],
        style: ["a boat in the style of [name]", "a cat in the style of [name]", "a flower pot in the style of [name]"],
        negative: ["a photo of a boat", "a photo of a cat", "a photo of a tree"],
    };
    let parts = null;
    let isSending = false;

    tinv.tryIt = {
        /** Brings the pictures into view, and puts the cursor where a prompt is typed. */
        show() {
            tinv.scrollTo(byId("tinv_tests").classList.contains("tinv-hidden") ? byId("tinv_try_panel") : byId("tinv_tests"), "start");
            if (parts) parts.input.focus({ preventScroll: true });
        },
    };

    function build() {
        const input = h("input.tinv-input", { id: "tinv_try_prompt", type: "text", "aria-label": "Prompt to try" });
        input.addEventListener("keydown", (event) => event.key === "Enter" && make(input.value));
        const makeButton = h("button.tinv-button", { id: "tinv_try_make", onclick: () => make(input.value) }, "Make a picture");
        const moreButton = h("button.tinv-button", { id: "tinv_try_more", onclick: () => make(examples()) }, "Three more");
        const sheet = h("button.tinv-button", { id: "tinv_try_sheet", onclick: saveSheet }, "Save as a sheet");
        const note = h("p.tinv-note", { role: "status" });
        parts = { input, makeButton, moreButton, sheet, note };
        byId("tinv_try_panel").replaceChildren(
            h("div.tinv-row.tinv-try-row", {}, input, makeButton),
            h("div.tinv-row", {}, moreButton, sheet),
            note,
        );
    }

    const examples = () => (MORE[tinv.run.report.kind] || MORE.subject).join("\n");

    async function make(text) {
        if (isSending || isWorking()) return;
        isSending = true;
        say([]);
        draw();
        try {
            await tinv.call("try_prompts", { run: tinv.run.id, text }, { timeoutS: 60 });
            parts.input.value = "";
        } catch (error) {
            say([tinv.format.sentence(error.message)], true);
        }
        isSending = false;
        tinv.run.poll();
    }

    function say(content, isError = false) {
        parts.note.classList.toggle("tinv-field-error", isError && content.length > 0);
        tinv.setContent(parts.note, ...content);
    }

    const trying = () => tinv.run.serverStatus.trying || null;
    const isWorking = () => Boolean(trying() && trying().total);

    function draw() {
        const { run } = tinv;
        const { report } = run;
        const canTry = Boolean(report) && !run.active && (Number.isInteger(report.used_step) || run.history.snapshots.size > 0);
        tinv.setHidden(byId("tinv_try_panel"), !canTry);
        if (!canTry) return;
        if (!parts) build();
        const isBusy = isSending || isWorking();
        parts.input.placeholder = report.kind === "negative" ? "a photo of a boat" : `a drawing of ${report.name}`;
        for (const button of [parts.makeButton, parts.moreButton]) button.disabled = isBusy;
        tinv.setHidden(parts.sheet, !run.history.tests.size);
        const status = trying();
        if (!status || status.run !== run.id) {
            if (parts.note.dataset.from) say([]);
            delete parts.note.dataset.from;
            return;
        }
        parts.note.dataset.from = "server";
        if (status.error) return say([tinv.format.sentence(status.error)], true);
        const cancel = h("button.tinv-link", { onclick: () => tinv.call("cancel_try") }, "Cancel");
        const { done } = run.history.sampling || { done: 0 };
        say([...phrase("Making picture {} of {} ", Math.min(done + 1, status.total), status.total), cancel]);
    }

    // The sheet: all pictures with their prompts, as one PNG

    async function saveSheet() {
        parts.sheet.disabled = true;
        try {
            const { name } = tinv.run.report;
            const blob = await sheet(name, await pictures());
            tinv.saveFile(blob, `${name}-sheet.png`);
        } catch (error) {
            say([tinv.format.sentence(error.message)], true);
        }
        parts.sheet.disabled = false;
    }

    function pictures() {
        const load = async (event) => {
            const args = { run: tinv.run.id, prompt: event.prompt_index, full: true };
            const image = new Image();
            image.src = (await tinv.call("test_picture", args, { queue: "sheet" })).image;
            await image.decode();
            const { prompt, negative_prompt: negative } = event;
            return { image, text: negative ? `${prompt} · negative: ${negative}` : prompt };
        };
        return Promise.all(tinv.tests.events().map(load));
    }

    async function sheet(name, items) {
        const columns = Math.min(tinv.run.report.kind === "negative" ? 2 : 3, items.length);
        const rows = Math.ceil(items.length / columns);
        const cellHeight = SIDE + 3 * LINE + GAP;
        const canvas = h("canvas", { width: columns * (SIDE + GAP) + GAP, height: 3 * GAP + 2 * LINE + rows * cellHeight });
        const context = canvas.getContext("2d");
        context.fillStyle = "#fff";
        context.fillRect(0, 0, canvas.width, canvas.height);
        context.fillStyle = "#111";
        context.font = "bold 26px system-ui, sans-serif";
        context.fillText(name, GAP, GAP + 26, canvas.width - 2 * GAP);
        context.font = "15px system-ui, sans-serif";
        items.forEach(({ image, text }, i) => {
            const x = GAP + (i % columns) * (SIDE + GAP);
            const y = 2 * GAP + 2 * LINE + Math.floor(i / columns) * cellHeight;
            const scale = SIDE / Math.max(image.naturalWidth, image.naturalHeight);
            context.drawImage(image, x, y, image.naturalWidth * scale, image.naturalHeight * scale);
            wrapped(context, text).forEach((line, n) => context.fillText(line, x, y + SIDE + (n + 1) * LINE, SIDE));
        });
        return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    }

    /** A text in at most two lines of a picture's width. */
    function wrapped(context, text) {
        const lines = [""];
        for (const word of text.split(" ")) {
            const longer = `${lines[lines.length - 1]} ${word}`.trim();
            if (context.measureText(longer).width <= SIDE || !lines[lines.length - 1]) lines[lines.length - 1] = longer;
            else lines.push(word);
        }
        return lines.length > 2 ? [lines[0], `${lines[1]}…`] : lines;
    }

    tinv.ready(() => {
        tinv.on("run-followed", () => parts && say([]));
        tinv.on("run-updated", draw);
        draw();
    });
})();
