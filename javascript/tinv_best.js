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

        /** Whether to offer a step: it can be made the embedding, and is not. */
        offers: (step) => tinv.best.canUse(step) && step !== stepInUse(),

        /** What is written at a step's previews. */
        badge(step) {
            const { step: best, label } = recommendation();
            const texts = [step === best ? label : "", step === stepInUse() ? "In use" : ""].filter(Boolean);
            return texts.length > 1 ? `${texts[0]}, in use` : texts[0] || "";
        },
    };

    /** The step whose vectors are the embedding; null while there is none. */
    function stepInUse() {
        const { history, report } = tinv.run;
        if (usedStep !== null) return usedStep;
        if (!report) return null;
        if (report.state !== "finished" || !report.delivered) return report.used_step;
        return history.best && report.keeps_best ? history.best.step : report.step;
    }

    /**
     * The best step, a label for it, and what is said of it above the table: a sentence and the reason. No step before
     * there is a reason.
     */
    function recommendation() {
        const { history } = tinv.run;
        const { best } = history;
        const validated = [...history.validation.values()].pop();
        if (best) {
            const text = best.step === stepInUse() ? "Step {} looks best and is in use." : "Step {} looks best.";
            return { step: best.step, reason: best.reason, label: "Best step", text };
        }
        if (validated && validated.best_step > 0)
            return {
                step: validated.best_step,
                label: "Best so far",
                text: "Step {} looks best so far.",
                reason: "lowest error on the test views",
            };
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
        tinv.on("run-updated", () => {
            const { report } = tinv.run;
            if (report && report.used_step === usedStep) usedStep = null; // Python says so from here on
            draw();
        });
    });
})();
