// Earlier runs: opened, resumed, taken as a template for the form, deleted.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const COLLAPSED_COUNT = 6;
    const STATE_LABELS = {
        finished: "Finished",
        stopped: "Stopped",
        failed: "Failed",
        interrupted: "Interrupted",
        running: "Learning",
        queued: "Waiting",
    };
    let showAll = false;
    let drawnKey = "";

    const runs = (tinv.runs = {
        all: [], // the newest first
        refresh,
        useSettings,
    });

    async function refresh() {
        try {
            const reply = await tinv.call("runs", {}, { queue: "runs", timeoutS: 120 });
            runs.all = reply.runs.sort((a, b) => b.time - a.time);
        } catch (error) {
            if (!error.offline)
                tinv.setContent(byId("tinv_runs"), h("p.tinv-hint", {}, tinv.format.sentence(error.message)));
            return;
        }
        draw();
        tinv.emit("runs-listed");
    }

    /** Fills in an earlier run's settings, and its pictures if the form has none. */
    async function useSettings(id) {
        try {
            const { form } = await tinv.call("settings", { run: id });
            tinv.form.apply({ ...form, overwrite: false });
            const run = runs.all.find((other) => other.id === id);
            if (run && run.pictures && !tinv.pictures.count) await tinv.pictures.reuse(id);
            tinv.announce("Settings filled in");
            tinv.scrollTo(byId("tinv_images"), "start");
        } catch (error) {
            tinv.problems.showError(error);
        }
    }

    function open(id) {
        tinv.run.follow(id);
        tinv.scrollTo(byId("tinv_run"), "start");
    }

    function expand() {
        showAll = true;
        draw();
    }

    function draw() {
        const key = JSON.stringify([runs.all, showAll, tinv.run.id]);
        if (key === drawnKey) return drawProgress();
        drawnKey = key;
        const listed = showAll ? runs.all : runs.all.slice(0, COLLAPSED_COUNT);
        const restCount = runs.all.length - listed.length;
        const content = listed.length
            ? h("ul.tinv-runs", {}, ...listed.map(runItem))
            : h("p.tinv-hint", {}, "Your trainings appear here, with their previews and settings.");
        const more = restCount > 0 ? h("button.tinv-link", { onclick: expand }, `Show ${restCount} more`) : "";
        byId("tinv_runs").replaceChildren(content, more);
        drawProgress();
    }

    /** The followed run's step, which the list does not know until it is loaded again. */
    function drawProgress() {
        const { report, id } = tinv.run;
        const value = id && byId("tinv_runs").querySelector(`[data-run="${CSS.escape(id)}"] .tinv-value`);
        if (report && value) tinv.setText(value, String(report.step));
    }

    function runItem(run) {
        const thumbnail = run.thumb
            ? h("img", { src: run.thumb, alt: "", loading: "lazy" })
            : h("div.tinv-no-thumb", { "aria-hidden": "true" });
        const facts = [
            ...tinv.phrase("{} of {} steps", run.step, run.steps),
            " · ",
            tinv.format.bytes(run.bytes || 0),
            " · ",
            tinv.format.date(run.time),
        ];
        const state = h(`span.tinv-pill.tinv-state-${run.state}`, {}, STATE_LABELS[run.state] || run.state);
        const attributes = { "data-run": run.id, "data-state": run.state };
        if (run.id === tinv.run.id) attributes["aria-current"] = "true";
        return h(
            "li.tinv-run",
            attributes,
            thumbnail,
            h(
                "div.tinv-run-text",
                {},
                h("div", {}, h("b", {}, run.name), " ", state),
                h("div.tinv-hint", {}, ...facts),
                run.checkpoint ? h("div.tinv-hint.tinv-ellipsis", { title: run.checkpoint }, run.checkpoint) : null,
            ),
            h("div.tinv-row", {}, ...runButtons(run)),
        );
    }

    function runButtons(run) {
        const button = (label, onclick) => h("button.tinv-button", { onclick }, label);
        const isActive = ["running", "queued"].includes(run.state);
        const buttons = [
            button("Open", () => open(run.id)),
            button("Use these settings", () => useSettings(run.id)),
        ];
        if (run.resumable && !isActive && run.state !== "finished")
            buttons.push(button("Resume", () => tinv.actions.resume(run.id)));
        if (!isActive) {
            const question = `Delete this training of ${run.name}? The word stays.`;
            buttons.push(tinv.confirmButton("Delete", question, "Delete", () => tinv.actions.deleteRun(run.id)));
        }
        return buttons;
    }

    tinv.ready(() => {
        tinv.on("runs-changed", refresh);
        tinv.on("run-followed", draw);
        tinv.on("run-updated", drawProgress);
        byId("tinv_runs").textContent = "";
    });
})();
