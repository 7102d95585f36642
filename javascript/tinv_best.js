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

    /**
     * The step to use, a label for it, and what is said of it above the table: a sentence and the reason. No step
     * before there is a reason.
     */
    function recommendation() {
        const { history, report } = tinv.run;
        const { best } = history;
        const isFinished = Boolean(report && report.state === "finished");
        const fromPython = best && { step: best.step, reason: best.reason };
        const validated = [...history.validation.values()].pop();
        if (usedStep !== null) return { step: usedStep, label: "In use" };
        if (best && isFinished && report.keeps_best)
            return { ...fromPython, label: "Best step, in use", text: "Step {} is the best, and in use." };
        if (best) return { ...fromPython, label: "Best step", text: "Step {} is the best." };
        if (validated && validated.best_step > 0)
            return {
                step: validated.best_step,
                label: "Best so far",
                text: "Step {} is the best so far.",
                reason: "the error on the test views was least there",
            };
        if (isFinished) return { step: report.step, label: "In use: the end of the training" };
        return { step: null, label: "" };
    }

    function draw() {
        const { step, text, reason } = recommendation();
        const content = text ? [h("b", {}, ...tinv.phrase(text, step)), " ", tinv.format.sentence(reason)] : [];
        tinv.setContent(byId("tinv_best"), ...content);
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
