// What can be done once a training has ended: used, gone on with, thrown away, or repaired.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);
    let drawn = "";

    const action = (label, run, kind = "") => h(`button.tinv-button${kind}`, { onclick: run }, label);
    const latestSnapshot = () => Math.max(0, ...tinv.run.line.snapshots);

    function common(data) {
        const buttons = [action("Download", () => tinv.actions.download(data.id))];
        if (tinv.host && !tinv.host.hidesPaths) buttons.push(action("Folder", () => tinv.actions.openFolder(data.id)));
        return buttons;
    }

    const tryIn = (data) =>
        h(
            "button.tinv-button.tinv-primary",
            { id: "tinv_use_in_txt2img", onclick: () => tinv.txt2img.tryIn(data.out_name || data.name, data.kind) },
            "Try in txt2img",
        );

    function finished(data) {
        return [
            h("strong", {}, ...tinv.words("{} is ready.", data.out_name || data.name)),
            h("p", {}, "Write it into any prompt. If an earlier step looks better below, use that step instead."),
            h(
                "div.tinv-row",
                {},
                tryIn(data),
                action("500 more steps", () => tinv.actions.resume(data.id, { steps: data.steps + 500 })),
                ...common(data),
            ),
        ];
    }

    function stopped(data) {
        const step = latestSnapshot();
        const buttons = [];
        if (data.resumable) buttons.push(action("Resume", () => tinv.actions.resume(data.id), ".tinv-primary"));
        if (step) buttons.push(action(`Use step ${step}`, () => tinv.actions.use(data.id, step)));
        const question = `Delete this run of ${data.name} with its previews and snapshots?`;
        buttons.push(
            ...(step ? common(data) : []),
            tinv.confirmButton("Delete", question, "Delete", () => tinv.actions.remove(data.id)),
        );
        const head =
            data.state === "interrupted"
                ? "Interrupted. Nothing up to the last saved step is lost."
                : "Stopped. Nothing lost.";
        const rest = !data.resumable
            ? "There is no saved step to go on from."
            : data.step
              ? "Resume goes on exactly where it stopped."
              : "It had not begun to learn; Resume begins.";
        return [h("strong", {}, head), h("p", {}, rest), h("div.tinv-row", {}, ...buttons)];
    }

    /** The first sentence says what happened, the others what to do. */
    function halves(message) {
        const [, first, rest] = /^([\s\S]*?[.!?])\s+(?=[A-Z])([\s\S]*)$/.exec(message) || [null, message, ""];
        return [first || "The training ended without a word", rest];
    }

    function failed(data) {
        const least = data.memory && data.memory.mode === "low" && data.memory.batch_size === 1; // there is no less
        const short = /out of memory|no memory|memory left|not enough memory|want of memory/i.test(data.message || "");
        const memory = short && !least;
        let [what, todo] = halves(data.message || "");
        if (!todo && memory) todo = "Train with less memory, or close what else uses the graphics card.";
        if (!todo)
            todo = data.resumable
                ? "Resume goes on from the last saved step. If it fails again, ask for help with the details."
                : "Change what the message names and train again, or ask for help with the details.";
        const buttons = [];
        if (memory)
            buttons.push(action("Retry with less memory", () => tinv.actions.withLessMemory(data), ".tinv-primary"));
        if (data.resumable) buttons.push(action("Resume", () => tinv.actions.resume(data.id)));
        const step = latestSnapshot();
        if (step) buttons.push(action(`Use step ${step}`, () => tinv.actions.use(data.id, step)));
        const warnings = tinv.run.line.warnings.map((event) => `warning: ${event.message}`);
        const details = [
            `run: ${data.id}`,
            `version: ${tinv.run.world.version}`,
            `step ${data.step} of ${data.steps}`,
            data.message,
            ...warnings,
            data.details || "",
            navigator.userAgent,
        ];
        return [tinv.errorCard(what, todo, details.filter(Boolean).join("\n"), ...buttons)];
    }

    function draw() {
        const { run } = tinv,
            place = tinv.byId("tinv_result"),
            data = run.data;
        const parts = { finished, stopped, failed }[run.asking ? "" : run.state];
        const key =
            parts && data
                ? [
                      data.id,
                      data.state,
                      data.step,
                      data.resumable,
                      data.message,
                      tinv.host && tinv.host.hidesPaths,
                      latestSnapshot(),
                  ].join("|")
                : "";
        if (key === drawn) return;
        drawn = key;
        place.hidden = !key;
        place.classList.toggle("tinv-good", run.state === "finished");
        place.classList.toggle("tinv-card", run.state !== "failed");
        place.replaceChildren(
            ...(key ? [...parts(data), h("p.tinv-hint", { id: "tinv_use_note", role: "status" })] : []),
        );
    }

    /** The end, as the host announces the end of its own work. */
    function ended(data) {
        const audio = document.querySelector("#audio_notification audio");
        if (audio) {
            if (window.opts && Number.isFinite(window.opts.notification_volume))
                audio.volume = window.opts.notification_volume / 100;
            Promise.resolve(audio.play()).catch(() => {});
        }
        if (data.state === "finished") tinv.txt2img.refreshHost();
        tinv.runs.refresh();
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        tinv.on("run", draw);
        tinv.on("ready", draw);
        tinv.on("ended", ended);
        tinv.on("used", (id) => {
            // a stopped run whose step is now a word can be tried too
            const row = document.querySelector("#tinv_result .tinv-row");
            if (row && tinv.run.data && tinv.run.id === id && !tinv.byId("tinv_use_in_txt2img"))
                row.prepend(tryIn(tinv.run.data));
            tinv.txt2img.refreshHost();
        });
    });
})();
