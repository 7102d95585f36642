// Earlier runs: opened, resumed, taken as a template for the form, deleted.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const COLLAPSED_COUNT = 6;
    const MOST_ROWS = 1000; // the server sends no more; the others are in their folders
    const PAGE_ROWS = 30; // fetched at a time, and with each click on "Show more"
    const STATE_LABELS = {
        finished: "Finished",
        stopped: "Stopped",
        failed: "Failed",
        interrupted: "Interrupted",
        running: "Learning",
        queued: "Waiting",
    };
    let showAll = false;
    let total = 0; // on the server; `runs.all` has the newest of them
    let wanted = PAGE_ROWS;
    let drawnKey = "";

    const runs = (tinv.runs = {
        all: [], // the newest first, as many as were asked for
        refresh,
        useSettings,
    });

    async function refresh() {
        try {
            const request = { limit: Math.max(PAGE_ROWS, wanted) };
            const reply = await tinv.call("runs", request, { queue: "runs", timeoutS: 120 });
            // what waits is not an earlier run: it stands under the one that learns
            const earlier = reply.runs.filter(({ state }) => state !== "queued");
            total = reply.total - (reply.runs.length - earlier.length);
            runs.all = earlier.sort((a, b) => b.time - a.time);
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
            const run = runs.all.find((other) => other.id === id);
            const takesPictures = run && run.pictures && !tinv.pictures.count;
            const fillIn = async () => {
                tinv.form.load({ ...form, overwrite: false });
                if (takesPictures) await tinv.pictures.reuse(id);
            };
            const undoPictures = () => takesPictures && tinv.pictures.undo();
            await tinv.undo.formChange("Settings filled in.", fillIn, undoPictures);
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
        if (showAll) wanted = Math.min(MOST_ROWS, runs.all.length + PAGE_ROWS);
        showAll = true;
        draw();
        if (wanted > runs.all.length && total > runs.all.length) refresh();
    }

    function draw() {
        const key = JSON.stringify([runs.all, total, showAll, tinv.run.id]);
        if (key === drawnKey) return drawProgress();
        drawnKey = key;
        const listed = showAll ? runs.all : runs.all.slice(0, COLLAPSED_COUNT);
        const restCount = Math.min(total, MOST_ROWS) - listed.length;
        const content = listed.length
            ? h("ul.tinv-runs", {}, ...listed.map(safeItem))
            : h("p.tinv-hint", {}, "Your trainings appear here, with their previews and settings.");
        const nextCount = Math.min(restCount, showAll ? PAGE_ROWS : runs.all.length - COLLAPSED_COUNT);
        const more = nextCount > 0 ? h("button.tinv-link", { onclick: expand }, `Show ${nextCount} more`) : "";
        byId("tinv_runs").replaceChildren(content, more);
        drawProgress();
    }

    /** The followed run's step, which the list does not know until it is loaded again. */
    function drawProgress() {
        const { report, id } = tinv.run;
        const value = id && byId("tinv_runs").querySelector(`[data-run="${CSS.escape(id)}"] .tinv-value`);
        if (report && value) tinv.setText(value, String(report.step));
    }

    /** One odd run hides no other. */
    function safeItem(run) {
        try {
            return runItem(run);
        } catch (error) {
            console.error(error);
            return h("li.tinv-run", { "data-run": run.id }, h("b", {}, String(run.name)));
        }
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

    async function deletePictures(run) {
        try {
            await tinv.call("delete_pictures", { run }, { timeoutS: 120 });
        } catch (error) {
            tinv.problems.showError(error);
        }
        refresh();
        tinv.run.poll();
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
        if (!isActive && run.pictures) {
            const question = `Delete the copies of the pictures? ${run.name} stays, but cannot be trained further.`;
            buttons.push(tinv.confirmButton("Delete pictures", question, "Delete", () => deletePictures(run.id)));
        }
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
