// The card below the status of a training that has ended: what can be done with it, or why it failed.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const MORE_STEPS = 500;
    const OUT_OF_MEMORY = /out of memory|no memory|memory left|not enough memory|want of memory/i;
    const BEST_DELIVERED = " It uses step {}, which measured best. If another step looks better, use that one.";
    const LAST_DELIVERED = " If an earlier step looks better, use that one.";
    let drawnKey = "";

    const button = (label, onclick, classes = "") => h(`button.tinv-button${classes}`, { onclick }, label);
    const latestSnapshot = () => Math.max(0, ...tinv.run.history.snapshots);

    function reportButton(report) {
        const fileName = `${report.id.replace("/", "-")}.html`;
        const open = () => tinv.report.open(`Report: ${report.name}`, fileName, "report", { run: report.id });
        return button("Report", open);
    }

    /** A folder opens on the computer that the WebUI runs on. */
    const isThisComputer = () => /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(location.hostname);

    function fileButtons(report) {
        const buttons = [
            reportButton(report),
            button("Share", () => tinv.share.open(report)),
            button("Download", () => tinv.actions.download(report.id)),
        ];
        if (tinv.host && tinv.host.opensFolders && isThisComputer())
            buttons.push(button("Folder", () => tinv.actions.openFolder(report.id)));
        return buttons;
    }

    function resumeButton(report, classes) {
        return report.resumable ? [button("Resume", () => tinv.actions.resume(report.id), classes)] : [];
    }

    /** Offers the best step, if it is known, else the latest that was kept. */
    function useSnapshotButton(report) {
        const { best } = tinv.run.history;
        const step = best && tinv.best.canUse(best.step) ? best.step : latestSnapshot();
        return step && tinv.best.offers(step) ? [button(`Use step ${step}`, () => tinv.actions.useStep(report.id, step))] : [];
    }

    const isNegative = ({ kind }) => kind === "negative";
    const usage = (report) => (isNegative(report) ? "Add it to the negative prompt." : "Use it in any prompt.");

    function tryButton(report) {
        const tryWord = () => tinv.txt2img.tryWord(report.out_name || report.name, report.kind);
        return h(
            "button.tinv-button.tinv-primary",
            { id: "tinv_use_in_txt2img", onclick: tryWord },
            isNegative(report) ? "Add to the negative prompt" : "Try in txt2img",
        );
    }

    function finished(report) {
        const { best, finishReason } = tinv.run.history;
        const endedEarly = report.step < report.steps;
        const continueTraining = () => tinv.actions.resume(report.id, { steps: report.step + MORE_STEPS });
        const isBestDelivered = Boolean(best && report.keeps_best);
        return [
            finishReason ? h("p", {}, tinv.format.sentence(finishReason)) : null,
            h("p", {}, usage(report), ...(isBestDelivered ? tinv.phrase(BEST_DELIVERED, best.step) : [LAST_DELIVERED])),
            h(
                "div.tinv-row",
                {},
                tryButton(report),
                button(endedEarly ? "Train further anyway" : `${MORE_STEPS} more steps`, continueTraining),
                ...fileButtons(report),
            ),
        ];
    }

    function stopped(report) {
        const heading = tinv.run.interrupted
            ? "Interrupted. Everything up to the last saved step is kept."
            : "Stopped and saved.";
        let advice = "No step was saved, so there is nothing to resume.";
        if (report.resumable)
            advice = report.step
                ? "Resume continues from here."
                : "Training had not begun. Resume starts it.";
        const question = `Delete this training of ${report.name}, its previews and saved steps?`;
        const isUsed = Number.isInteger(report.used_step); // an earlier end, or a step, is the word in use
        const buttons = [
            ...(isUsed ? [tryButton(report)] : []),
            ...resumeButton(report, isUsed ? "" : ".tinv-primary"),
            ...useSnapshotButton(report),
            ...(latestSnapshot() ? fileButtons(report) : []),
            tinv.confirmButton("Delete", question, "Delete", () => tinv.actions.deleteRun(report.id)),
        ];
        return [h("strong", {}, heading), h("p", {}, advice), h("div.tinv-row", {}, ...buttons)];
    }

    /** A message's first sentence, which says what happened, and the others, which say what to do. */
    function splitMessage(message) {
        const [, first, rest] = /^([\s\S]*?[.!?])\s+(?=[A-Z])([\s\S]*)$/.exec(message) || [null, message, ""];
        return [first || "Training ended without a message", rest];
    }

    function failed(report) {
        const message = report.message || "";
        const usedLeastMemory = report.memory && report.memory.mode === "low" && report.memory.batch_size === 1;
        const offersLessMemory = OUT_OF_MEMORY.test(message) && !usedLeastMemory;
        const [whatHappened, adviceFromMessage] = splitMessage(message);
        let advice = adviceFromMessage;
        if (!advice && offersLessMemory)
            advice = "Train with less memory, or close other programs that use the graphics card.";
        if (!advice)
            advice = report.resumable
                ? "Resume continues from the last saved step. If it fails again, copy the details and ask for help."
                : "Fix that and train again, or copy the details and ask for help.";
        const retry = () => tinv.actions.retryWithLessMemory(report);
        const buttons = [
            ...(offersLessMemory ? [button("Retry with less memory", retry, ".tinv-primary")] : []),
            ...resumeButton(report),
            ...useSnapshotButton(report),
        ];
        const details = [
            `run: ${report.id}`,
            `version: ${tinv.run.serverStatus.version}`,
            `step ${report.step} of ${report.steps}`,
            report.message,
            ...tinv.run.history.warnings.map((event) => `warning: ${event.message}`),
            report.details || "",
            navigator.userAgent,
        ];
        return [tinv.problems.errorCard(whatHappened, advice, details.filter(Boolean).join("\n"), ...buttons)];
    }

    function draw() {
        const { run } = tinv;
        const { report } = run;
        const content = report ? { finished, stopped, failed }[report.state] : null;
        const key = content
            ? [
                  report.id,
                  report.state,
                  report.step,
                  report.resumable,
                  report.message,
                  report.used_step,
                  tinv.host && tinv.host.opensFolders,
                  latestSnapshot(),
                  run.history.finishReason,
                  run.history.best && run.history.best.step,
              ].join("|")
            : "";
        if (key === drawnKey) return;
        drawnKey = key;
        const card = byId("tinv_result");
        tinv.setHidden(card, !content);
        card.classList.toggle("tinv-good", Boolean(report) && report.state === "finished");
        card.classList.toggle("tinv-card", !report || report.state !== "failed");
        const oldNote = card.dataset.run === run.id && byId("tinv_use_note"); // it says what a click has done
        const note = oldNote || h("p.tinv-hint", { id: "tinv_use_note", role: "status" });
        card.dataset.run = run.id;
        card.replaceChildren(...(content ? [...content(report).filter(Boolean), note] : []));
    }

    /** A stopped run can be tried, too, once one of its steps is in use. */
    function offerToTry(id) {
        const row = document.querySelector("#tinv_result .tinv-row");
        if (row && tinv.run.report && tinv.run.id === id && !byId("tinv_use_in_txt2img"))
            row.prepend(tryButton(tinv.run.report));
    }

    /** The sound with which the host announces the end of its own work. */
    function playSound() {
        const audio = document.querySelector("#audio_notification audio");
        if (!audio) return;
        if (window.opts && Number.isFinite(window.opts.notification_volume))
            audio.volume = window.opts.notification_volume / 100;
        Promise.resolve(audio.play()).catch(() => {}); // browsers refuse it on pages that nobody has clicked
    }

    tinv.ready(() => {
        tinv.on("run-updated", draw);
        tinv.on("form-ready", draw);
        tinv.on("run-ended", (report) => {
            playSound();
            if (report.state === "finished") tinv.txt2img.refreshHost();
            tinv.runs.refresh();
        });
        tinv.on("step-used", (id) => {
            offerToTry(id);
            tinv.txt2img.refreshHost();
        });
    });
})();
