// "Try several": queues a training for each combination of some values, and compares the results.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const FIELDS = {
        learning_rate: ["Learning rates", "0.002, 0.005"],
        vectors: ["Vectors", "1, 2, 4"],
        init_text: ["Looks most like", "mug, cup"],
    };
    const STATES = { queued: "Waiting", running: "Learning", finished: "Finished", stopped: "Stopped" };
    let most = Infinity; // combinations that Python accepts
    let secondsEach = null; // of one training, if known
    let isStarting = false;
    let drawnKey = "";

    const inputs = () => [...byId("tinv_sweep_fields").querySelectorAll("input")];

    /** By option, the values that were typed, each once. */
    function values() {
        const split = (text) => [...new Set(text.split(",").map((value) => value.trim()).filter(Boolean))];
        const all = inputs().map((input) => [input.dataset.option, split(input.value)]);
        return Object.fromEntries(all.filter(([, texts]) => texts.length));
    }

    const count = () => Object.values(values()).reduce((product, texts) => product * texts.length, 1);

    function draw() {
        const total = count();
        const button = byId("tinv_sweep_start");
        button.disabled = isStarting || total < 2 || total > most;
        tinv.setText(button, isStarting ? "Checking…" : total > 1 ? `Train all ${total}` : "Train all");
        const time = secondsEach ? [" · about ", tinv.format.duration(total * secondsEach)] : [];
        let note = [];
        if (total > most) note = tinv.phrase("{} trainings. At most {} are possible.", total, most);
        else if (total > 1) note = [...tinv.phrase("{} trainings", total), ...time];
        tinv.setContent(byId("tinv_sweep_note"), ...note);
    }

    async function start() {
        isStarting = true;
        draw();
        tinv.problems.clear();
        try {
            await submit(values());
        } catch (error) {
            if (error.problems && error.problems.length) tinv.problems.show(error.problems);
            else tinv.problems.showError(error);
        }
        isStarting = false;
        draw();
        refresh();
    }

    async function submit(sent) {
        // the trainings of a sweep have names of their own
        const isAbout = ({ option, message }) => !(option in sent) && !(option === "name" && /already/.test(message));
        if (await tinv.checklist.stops(isAbout)) return;
        const args = { form: tinv.form.payload(), draft: tinv.pictures.draft, values: sent, token: tinv.randomHex() };
        const send = () => tinv.call("sweep", args, { queue: "train", timeoutS: 300 });
        const { runs, warnings } = await tinv.retryWhileOffline(send);
        for (const input of inputs()) input.value = "";
        await tinv.actions.showSubmitted({ run: runs[0], warnings });
    }

    // The sweeps there are

    async function refresh() {
        if (!byId("tinv_sweep").open) return;
        try {
            drawSweeps((await tinv.call("sweeps", {}, { queue: "runs" })).sweeps);
        } catch (error) {
            console.info("Textual Inversion: no list of sweeps:", error.message);
        }
    }

    function drawSweeps(sweeps) {
        const key = JSON.stringify(sweeps);
        if (key === drawnKey) return;
        drawnKey = key;
        const list = h("ul.tinv-runs", {}, ...sweeps.map(item));
        byId("tinv_sweeps").replaceChildren(...(sweeps.length ? [h("h4", {}, "Comparisons"), list] : []));
    }

    function item(sweep) {
        const { id, name, state, done, total, time, best } = sweep;
        const tried = Object.entries(sweep.values).map(([option, texts]) => `${labelOf(option)}: ${texts.join(", ")}`);
        const bestRun = best && sweep.runs.find(({ run }) => run === best.run);
        const bestPattern = state === "finished" ? "Best: {}." : "Best so far: {}.";
        const bestName = bestRun ? tinv.phrase(bestPattern, bestRun.name) : [];
        const pill = h(`span.tinv-pill.tinv-state-${state}`, {}, STATES[state] || state);
        return h(
            "li.tinv-run.tinv-sweep-item",
            { "data-sweep": id, "data-state": state },
            h(
                "div.tinv-run-text",
                {},
                h("div", {}, h("b", {}, name), " ", pill),
                h("div.tinv-hint", {}, ...tinv.phrase("{} of {} trained", done, total), " · ", tinv.format.date(time)),
                h("div.tinv-hint", {}, tried.join(" · ")),
                best ? h("div.tinv-note", {}, h("b", {}, ...bestName), " ", tinv.format.sentence(best.reason)) : null,
            ),
            h("div.tinv-row", {}, ...buttons(sweep)),
        );
    }

    function labelOf(option) {
        const field = tinv.form.field(option);
        return field ? field.label : option === "images" ? "Pictures" : option;
    }

    function buttons({ id, name, state, best }) {
        const button = (label, onclick) => h("button.tinv-button", { onclick }, label);
        const change = async (action) => {
            try {
                await tinv.call(action, { sweep: id }, { timeoutS: 120 });
            } catch (error) {
                tinv.problems.showError(error);
            }
            tinv.run.poll();
            refresh();
        };
        const compare = () =>
            tinv.report.open(`Comparison: ${name}`, `${id.replace(/\W+/g, "-")}.html`, "comparison", { sweep: id });
        const isActive = ["queued", "running"].includes(state);
        return [
            button("Compare", compare),
            ...(best ? [button("Open the best", () => tinv.run.follow(best.run))] : []),
            ...(isActive ? [button("Stop all", () => change("stop_sweep"))] : []),
            ...(state === "stopped" ? [button("Resume", () => change("resume_sweep"))] : []),
        ];
    }

    tinv.ready(() => {
        const fields = Object.entries(FIELDS).map(([option, [label, example]]) => {
            const attributes = { type: "text", "data-option": option, placeholder: example, oninput: draw };
            return h("label.tinv-sweep-field", {}, h("span", {}, label), h("input.tinv-input", attributes));
        });
        byId("tinv_sweep_fields").replaceChildren(...fields);
        byId("tinv_sweep_start").addEventListener("click", start);
        byId("tinv_sweep").addEventListener("toggle", async () => {
            refresh();
            try {
                most = (await tinv.call("sweep_options")).most;
            } catch (error) {
                console.info("Textual Inversion: sweeps:", error.message);
            }
            draw();
        });
        tinv.on("form-checked", (reply) => {
            secondsEach = reply.estimate && reply.estimate.seconds;
            draw();
        });
        for (const event of ["runs-changed", "run-ended"]) tinv.on(event, refresh);
        draw();
    });
})();
