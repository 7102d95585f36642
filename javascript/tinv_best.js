// Which step to use, and why: marked in the table of previews, and said above it.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    let usedStep = null; // the step that the user has made the embedding

    tinv.best = {
        recommendation,

        /** Whether a step can be made the embedding: its vectors were kept. */
        canUse(step) {
            const { history, report } = tinv.run;
            const isEnd = Boolean(report && report.state === "finished" && step === report.step);
            return isEnd || history.snapshots.has(step);
        },
    };

    /** The step to use, a label for it and the reason in a sentence; no step before there is a reason. */
    function recommendation() {
        const { history, report } = tinv.run;
        const isFinished = Boolean(report && report.state === "finished");
        const validated = [...history.validation.values()].pop();
        if (usedStep !== null) return { step: usedStep, label: "In use", reason: "" };
        if (history.best) {
            const label = isFinished && report.keeps_best ? "Best step, in use" : "Best step";
            return { step: history.best.step, label, reason: history.best.reason };
        }
        if (validated && validated.best_step > 0)
            return { step: validated.best_step, label: "Best so far", reason: "least error on the test views" };
        if (isFinished) return { step: report.step, label: "In use: the end of the training", reason: "" };
        return { step: null, label: "", reason: "" };
    }

    function draw() {
        const { step, label, reason } = recommendation();
        const heading = h("b", {}, ...tinv.phrase("{}: step {}.", label, step));
        tinv.setContent(byId("tinv_best"), ...(reason ? [heading, " ", tinv.format.sentence(reason)] : []));
    }

    tinv.ready(() => {
        tinv.on("run-followed", () => {
            usedStep = null;
        });
        tinv.on("step-used", (id, step) => {
            if (id === tinv.run.id) usedStep = step;
            draw();
        });
        tinv.on("run-updated", draw);
    });
})();
