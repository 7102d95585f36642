// Captions for all pictures: written by the WebUI's own models, or edited together.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const POLL_MS = 1000;
    let status = { state: "idle" };
    let note = "";
    let isError = false;
    let canUndo = false;

    const call = (action, args = {}) => tinv.call(action, args, { timeoutS: 120 });
    const isRunning = () => status.state === "running";
    const inputs = () => [...byId("tinv_captions_edit").querySelectorAll("input")];

    function say(text, error = false) {
        note = text;
        isError = error;
        draw();
    }

    /** Runs an action; what goes wrong is said below the fields. */
    async function attempt(action) {
        try {
            await action();
        } catch (error) {
            const problems = (error.problems || []).map((problem) => problem.message);
            say(tinv.format.sentence(problems.join("; ") || error.message), true);
        }
    }

    const write = (captioner) =>
        attempt(async () => {
            await tinv.pictures.saved();
            say("");
            status = await call("write_captions", { draft: tinv.pictures.draft, captioner });
            draw();
            setTimeout(poll, POLL_MS);
        });

    const cancel = () => attempt(() => call("cancel_captions"));

    async function poll() {
        const doneBefore = status.done;
        try {
            status = await call("captioning");
            if (status.done !== doneBefore) await tinv.pictures.reload();
            if (status.state === "failed") say(tinv.format.sentence(status.message), true);
            if (status.state === "done") {
                canUndo = true;
                say(status.done === 1 ? "1 caption written." : `${status.done} captions written.`);
            }
        } catch (error) {
            if (!error.offline) status = { state: "idle" };
        }
        draw();
        if (isRunning()) setTimeout(poll, POLL_MS);
    }

    const edit = () =>
        attempt(async () => {
            await tinv.pictures.saved();
            const parts = Object.fromEntries(inputs().map((input) => [input.dataset.part, input.value]));
            const { changed } = await call("edit_captions", { draft: tinv.pictures.draft, ...parts });
            if (changed) {
                for (const input of inputs()) input.value = "";
                canUndo = true;
                await tinv.pictures.reload();
            }
            say(changed === 1 ? "1 caption changed." : changed ? `${changed} captions changed.` : "Nothing to change.");
        });

    const undo = () =>
        attempt(async () => {
            await call("undo", { draft: tinv.pictures.draft });
            await tinv.pictures.reload();
            canUndo = false;
            say("Captions restored.");
        });

    function draw() {
        const captioners = Object.entries((tinv.host && tinv.host.captioners) || {});
        tinv.setHidden(byId("tinv_all_captions"), !tinv.pictures.count);
        tinv.setHidden(byId("tinv_captioners"), !captioners.length);
        tinv.setHidden(byId("tinv_captions_undo"), !canUndo);
        const start = ([name, title]) => h("button.tinv-button", { onclick: () => write(name) }, title);
        byId("tinv_captioners").replaceChildren(
            h("span", {}, "Describe pictures without a caption:"),
            ...(isRunning() ? [h("button.tinv-button", { onclick: cancel }, "Cancel")] : captioners.map(start)),
        );
        const { message, done, total } = status;
        const progress = message ? [`${message}…`] : tinv.phrase("Describing: {} of {}", done, total);
        byId("tinv_captions_note").classList.toggle("tinv-field-error", isError && !isRunning());
        tinv.setContent(byId("tinv_captions_note"), ...(isRunning() ? progress : [note]));
    }

    tinv.ready(() => {
        byId("tinv_captions_apply").addEventListener("click", edit);
        byId("tinv_captions_undo").addEventListener("click", undo);
        tinv.on("pictures-changed", draw);
        tinv.on("form-ready", draw);
    });
})();
