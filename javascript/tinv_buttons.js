// The row of buttons. One of them is the next thing to do: Train, then Stop, then Try it; the others stand beside it.
(() => {
    "use strict";
    const { tinv } = window;
    const { buttonById } = tinv;

    tinv.buttons = {
        resumableRun,

        /** Whether the word that is shown has been learned, and nothing else has been asked for since. */
        get isDone() {
            return nextStep(tinv.run) === "tinv_try";
        },
    };

    /** The run that Resume continues: the followed one once it has ended, else the newest that was cut short. */
    function resumableRun() {
        const { run } = tinv;
        if (run.submitting || run.active) return null;
        if (run.report) return run.report.resumable && ["stopped", "failed"].includes(run.state) ? run.report : null;
        const wasCutShort = (other) => other.resumable && ["interrupted", "stopped"].includes(other.state);
        return tinv.runs.all.find(wasCutShort) || null;
    }

    /** What can be tried: the followed run's word, once it is one. */
    const isReady = ({ report, active }) => Boolean(report) && !active && Number.isInteger(report.used_step);

    /** Which button is the next thing to do. A word that was just learned is tried before another is trained. */
    function nextStep(run) {
        if (run.active) return "tinv_stop";
        const isNewWord = run.report && tinv.form.values.name !== run.report.name;
        return isReady(run) && run.state === "finished" && !isNewWord && !run.submitting ? "tinv_try" : "tinv_train";
    }

    function setButton(id, { enabled, label, title = label, shown = enabled }) {
        const button = buttonById(id);
        if (!button) return;
        button.disabled = !enabled;
        if (button.textContent.trim() !== label) button.textContent = label;
        if (button.title !== title) button.title = title;
        tinv.setHidden(button, !shown, "not-now");
    }

    function trainLabel(run) {
        if (run.submitting) return "Checking…";
        if (run.serverStatus.active) return "Add to queue";
        return nextStep(run) === "tinv_train" ? "Train" : "Train again";
    }

    function stopLabel(run) {
        if (run.stopping) return "Stopping…";
        if (!run.report || !(run.serverStatus.queue || []).length) return "Stop";
        return run.state === "queued" ? `Remove ${run.report.name}` : `Stop ${run.report.name}`;
    }

    /** Another word can wait in the queue, but not the one that is learned now. */
    function canQueue(run) {
        const { name } = tinv.form.values || {};
        return !run.active || !run.report || String(name || "").trim() !== run.report.name;
    }

    function draw() {
        const { run } = tinv;
        const resumable = resumableRun();
        const label = trainLabel(run);
        setButton("tinv_train", { enabled: !run.submitting, label, title: `${label} (Ctrl+Enter)`, shown: canQueue(run) });
        setButton("tinv_stop", {
            enabled: run.active && !run.stopping && run.state !== "saving",
            label: stopLabel(run),
            title: run.report ? `Save ${run.report.name} and stop` : "Stop",
            shown: run.active,
        });
        setButton("tinv_try", { enabled: isReady(run), label: "Try it", title: "See what the word does" });
        setButton("tinv_sample_now", {
            enabled: run.state === "training" && !run.stopping && !isSampling(run),
            shown: run.state === "training",
            label: isSampling(run) ? "Sampling…" : "Sample now",
            title: "Make previews of the current step",
        });
        setButton("tinv_resume", {
            enabled: Boolean(resumable),
            label: resumable ? `Resume ${resumable.name}` : "Resume",
            title: resumable
                ? `Continue ${resumable.name} from step ${resumable.step} of ${resumable.steps}`
                : "Nothing to resume",
        });
        for (const id of ["tinv_train", "tinv_stop", "tinv_try"]) {
            const button = buttonById(id);
            if (button) button.classList.toggle("tinv-next-step", id === nextStep(run));
        }
    }

    const isSampling = ({ sampleRequested, history }) =>
        sampleRequested || Boolean(history.sampling && history.sampling.noun === "preview");

    tinv.ready(() => {
        for (const event of ["run-updated", "runs-listed", "form-changed", "step-used"]) tinv.on(event, draw);
        draw();
    });
})();
