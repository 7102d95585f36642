// How the followed training goes: the status line, the progress bar, the page's title, and what a screen reader says.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h, phrase, setContent } = tinv;
    let announcedKey = "";
    let titleHasProgress = false;
    let drawnProgress = 0; // 0 to 1

    function lastStep() {
        const steps = [...tinv.run.history.steps.values()];
        return steps[steps.length - 1];
    }

    function statusLine(run) {
        const report = run.report || {};
        const { encoding, searching } = run.history;
        if (run.checking) return ["Checking…"];
        if (run.stopping) return report.step ? phrase("Saving step {}…", report.step) : ["Stopping…"];
        switch (run.state) {
            case "idle":
                if (tinv.problems.any) return ["Not started. Fix what is listed beside Train."];
                return [tinv.pictures.count ? "Ready to train" : "Add pictures to begin"];
            case "queued":
                if (!(report.place > 0)) return ["Waiting for the WebUI to finish its work"];
                if (report.place === 1) return phrase("Waiting for {} training", report.place);
                return phrase("Waiting for {} trainings", report.place);
            case "loading":
                return ["Loading the checkpoint…", ...(report.id ? timeLeft(report) : [])];
            case "encoding":
                if (searching) return phrase("Looking for a start word: {} of {}", searching.done, searching.total);
                return encoding
                    ? phrase("Reading the pictures: {} of {}", encoding.done, encoding.images)
                    : ["Reading the pictures…"];
            case "training":
                return [...phrase("Learning: step {} of {}", report.step, report.steps), ...timeLeft(report)];
            case "saving":
                return phrase("Saving step {}…", report.step);
            case "finished":
                return phrase("{} is ready after {} steps", report.out_name || report.name, report.step);
            case "stopped":
                return run.interrupted
                    ? phrase("Interrupted at step {} of {}", report.step, report.steps)
                    : phrase("Stopped at step {} of {}", report.step, report.steps);
            case "failed":
                return report.step ? phrase("Failed at step {} of {}", report.step, report.steps) : ["Failed"];
            default:
                return [run.state];
        }
    }

    /** One figure: what was expected, corrected by the pace. */
    function timeLeft({ seconds_left: seconds }) {
        return Number.isFinite(seconds) && seconds > 0 ? phrase(" · {} left", tinv.format.duration(seconds)) : [];
    }

    function metrics(run) {
        const step = lastStep();
        if (!step || ["idle", "queued"].includes(run.state)) return [];
        const metric = (name, value) =>
            h("span.tinv-metric", {}, h("span", {}, name), " ", h("b.tinv-value", {}, value));
        const elements = [];
        if (step.images_per_s && run.active)
            elements.push(metric("Speed", tinv.format.imagesPerSecond(step.images_per_s)));
        const loss = step.smoothed_loss ?? step.loss;
        if (Number.isFinite(loss)) elements.push(metric("Loss", tinv.format.loss(loss)));
        if (step.memory_mb) elements.push(metric("Memory", tinv.format.memory(step.memory_mb)));
        const memory = run.report && run.report.memory;
        if (memory && memory.mode !== "fast") elements.push(metric("Memory mode", memory.mode));
        return elements;
    }

    /** What is being done between two steps: the step's number stands still meanwhile. */
    function activity({ history, sampleRequested }) {
        const { done, total, noun } = history.sampling || {};
        if (total && noun === "preview") return phrase("Making previews: {} of {}", done + 1, total);
        if (total) return phrase("Making test pictures: {} of {}", done + 1, total);
        return sampleRequested ? ["Previews come after this step"] : [];
    }

    function note(run) {
        if (run.offline) return ["Lost contact with the WebUI. Reconnecting…"];
        if (run.active) {
            const doing = activity(run);
            const now = doing.length ? [h("span.tinv-activity", {}, ...doing), " · "] : [];
            const name = run.report ? [h("b", {}, run.report.name), " · "] : [];
            return [...now, ...name, "You can close this page. Training continues."];
        }
        const reason = run.state === "finished" ? tinv.format.sentence(run.history.finishReason) : "";
        const otherRun = run.serverStatus.active;
        if (!otherRun || otherRun === run.id || run.submitting) return [reason];
        const follow = () => tinv.run.follow(otherRun);
        const link = h("button.tinv-link", { onclick: follow }, otherRun.split("/")[0]);
        return [reason && `${reason} `, "Also training: ", link];
    }

    function drawProgress(run, progress) {
        const bar = byId("tinv_progress");
        const isIndeterminate = run.checking || run.state === "loading" || run.state === "encoding";
        bar.classList.toggle("tinv-indeterminate", isIndeterminate);
        bar.classList.toggle("tinv-animated", run.active && progress >= drawnProgress); // it never glides backwards
        drawnProgress = progress;
        bar.firstElementChild.style.width = `${isIndeterminate ? 100 : progress * 100}%`;
        if (isIndeterminate) bar.removeAttribute("aria-valuenow");
        else bar.setAttribute("aria-valuenow", Math.round(progress * 100));
    }

    /** "[23%]" before the page's title, where the host writes it for its own work, too. `null`: no progress. */
    function setTitleProgress(progress) {
        const isEnabled = !window.opts || window.opts.show_progress_in_title !== false;
        if (progress === null && !titleHasProgress) return;
        const title = document.title.replace(/^\[[^\]]*\] /, "");
        document.title = progress === null || !isEnabled ? title : `[${Math.floor(progress * 100)}%] ${title}`;
        titleHasProgress = progress !== null;
    }

    /** Says each new state, and each tenth of the training. */
    function announce(run, progress) {
        const isTraining = run.state === "training";
        const tenths = Math.floor(progress * 10);
        const key = `${run.id} ${run.state} ${isTraining ? tenths : ""}`;
        if (key === announcedKey) return;
        announcedKey = key;
        if (isTraining) tinv.announce(`Learning: ${tenths * 10} percent`);
        else if (run.state !== "idle") tinv.announce(byId("tinv_status_text").textContent);
    }

    function draw() {
        const { run } = tinv;
        const { step = 0, steps = 0 } = run.report || {};
        const progress = run.state === "finished" ? 1 : steps ? Math.min(1, step / steps) : 0;
        const status = byId("tinv_status").querySelector(".tinv-status");
        status.dataset.state = run.state;
        status.dataset.step = step || 0;
        status.classList.toggle("tinv-offline", run.offline);
        setContent(byId("tinv_status_text"), ...statusLine(run));
        setContent(byId("tinv_facts"), ...metrics(run));
        setContent(byId("tinv_status_note"), ...note(run));
        drawProgress(run, progress);
        setTitleProgress(run.active && run.state !== "queued" ? progress : null);
        announce(run, progress);
    }

    tinv.ready(() => {
        tinv.on("run-updated", draw);
        tinv.on("pictures-changed", draw);
        tinv.on("problems-changed", draw);
        draw();
    });
})();
