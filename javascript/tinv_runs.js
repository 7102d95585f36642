// Earlier runs: looked at again, gone on with, taken as a pattern, thrown away.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);
    const FIRST = 6;
    const WORDS = {
        finished: "Finished",
        stopped: "Stopped",
        failed: "Failed",
        interrupted: "Interrupted",
        running: "Learning",
        queued: "Waiting",
    };
    let showAll = false,
        drawn = "";

    const runs = (tinv.runs = {
        all: [],
        refresh,
        useSettings,
    });

    async function refresh() {
        try {
            runs.all = (await tinv.call("runs", {}, { lane: "runs", seconds: 120 })).runs.sort(
                (a, b) => b.time - a.time,
            );
        } catch (error) {
            if (!error.offline) tinv.fill(tinv.byId("tinv_runs"), h("p.tinv-hint", {}, tinv.sentence(error.message)));
            return;
        }
        draw();
        tinv.emit("runs");
    }

    /** An earlier run's settings, and its pictures where there are none in the form. */
    async function useSettings(id) {
        try {
            const { form } = await tinv.call("settings", { run: id });
            tinv.form.apply({ ...form, overwrite: false });
            const one = runs.all.find((run) => run.id === id);
            if (one && one.pictures && !tinv.pictures.count) await tinv.pictures.reuse(id);
            tinv.announce("The settings are filled in");
            const top = tinv.byId("tinv_images");
            tinv.scrollTo(top, "start");
        } catch (error) {
            tinv.problems.error(error);
        }
    }

    function open(id) {
        tinv.run.follow(id);
        tinv.scrollTo(tinv.byId("tinv_run"), "start");
    }

    const when = (seconds) =>
        new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

    function draw() {
        const place = tinv.byId("tinv_runs");
        const now = JSON.stringify([runs.all, showAll, tinv.run.id]);
        if (now === drawn) return;
        drawn = now;
        const shown = showAll ? runs.all : runs.all.slice(0, FIRST);
        const rest = runs.all.length - shown.length;
        const more =
            rest > 0 &&
            h(
                "button.tinv-link",
                {
                    onclick: () => {
                        showAll = true;
                        draw();
                    },
                },
                `Show ${rest} more`,
            );
        place.replaceChildren(
            ...(shown.length
                ? [h("ul.tinv-runs", {}, ...shown.map(item)), more || ""]
                : [h("p.tinv-hint", {}, "Every training is kept here, with its pictures, previews and settings.")]),
        );
    }

    function item(one) {
        const thumb = one.thumb
            ? h("img", { src: one.thumb, alt: "", loading: "lazy" })
            : h("div.tinv-no-thumb", { "aria-hidden": "true" });
        const active = ["running", "queued"].includes(one.state);
        const about = [
            ...tinv.words("{} of {} steps", one.step, one.steps),
            " · ",
            tinv.bytes(one.bytes || 0),
            " · ",
            when(one.time),
        ];
        const actions = [
            h("button.tinv-button", { onclick: () => open(one.id) }, "Open"),
            h("button.tinv-button", { onclick: () => useSettings(one.id) }, "Use these settings"),
        ];
        if (one.resumable && !active && one.state !== "finished")
            actions.push(h("button.tinv-button", { onclick: () => tinv.actions.resume(one.id) }, "Resume"));
        if (!active)
            actions.push(
                tinv.confirmButton("Delete", `Delete this run of ${one.name}? The word itself stays.`, "Delete", () =>
                    tinv.actions.remove(one.id),
                ),
            );
        const current = one.id === tinv.run.id;
        return h(
            "li.tinv-run",
            { "data-run": one.id, "data-state": one.state, ...(current ? { "aria-current": "true" } : {}) },
            thumb,
            h(
                "div.tinv-run-words",
                {},
                h(
                    "div",
                    {},
                    h("b", {}, one.name),
                    " ",
                    h(`span.tinv-pill.tinv-is-${one.state}`, {}, WORDS[one.state] || one.state),
                ),
                h("div.tinv-hint", {}, ...about),
                one.checkpoint ? h("div.tinv-hint.tinv-clip", { title: one.checkpoint }, one.checkpoint) : null,
            ),
            h("div.tinv-row", {}, ...actions),
        );
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        tinv.on("runs changed", refresh);
        tinv.on("follow", draw);
        tinv.byId("tinv_runs").textContent = "";
    });
})();
