// What the buttons do: Train, Stop, Sample now, Resume, and what is offered once a training has ended.
(() => {
    "use strict";
    const { tinv } = window;
    const { buttonById, h } = tinv;
    const DOUBLE_CLICK_MS = 1500; // so long after a start, a click on Train with the same word was meant for what it was before
    const EXAMPLE_FORM = { name: "my-coin", kind: "subject", init_text: "object" };
    let startedAt = 0;
    let startedName = "";

    tinv.actions = {
        train, stop, sample, resume, useStep, download, openFolder, deleteRun, retryWithLessMemory, showSubmitted,
    };

    // Actions

    /** Awaits `work`, or shows on the page why it failed and returns null. */
    async function reportErrors(work, advice) {
        try {
            tinv.problems.clear();
            return await work();
        } catch (error) {
            if (error.problems && error.problems.length) tinv.problems.show(error.problems);
            else tinv.problems.showError(error, advice);
        }
        return null;
    }

    async function train() {
        const { run } = tinv;
        const field = document.querySelector("#tinv_name input, #tinv_name textarea");
        const name = field ? field.value : ""; // as it is typed: the form's values come a moment later
        if (run.submitting || (name === startedName && Date.now() - startedAt < DOUBLE_CLICK_MS)) return;
        const token = tinv.randomHex(); // Python starts one training for each, however often the request is repeated
        run.submitting = true;
        tinv.emit("run-updated");
        const reply = await reportErrors(async () => {
            if (await tinv.checklist.stops()) return null;
            const { draft } = tinv.pictures;
            const form = tinv.form.payload();
            const submit = () => tinv.call("train", { form, draft, token }, { queue: "train", timeoutS: 300 });
            return await tinv.retryWhileOffline(submit, () => {
                run.offline = true;
                tinv.emit("run-updated");
            });
        });
        run.submitting = false;
        run.offline = false;
        if (!reply) return tinv.emit("run-updated");
        [startedAt, startedName] = [Date.now(), name];
        tinv.storage.set("trained", reply.run);
        if (tinv.form.values.overwrite) tinv.form.apply({ overwrite: false });
        tinv.emit("run-submitted");
        await showSubmitted(reply);
    }

    /** Shows the new run; if another is learning, that stays in view, and the new one stands under it. */
    async function showSubmitted({ run: id, warnings }) {
        const { run } = tinv;
        const { active } = await tinv.call("poll", { run: null, after: 0 }).catch(() => ({ active: id }));
        const shown = active && active !== id ? active : id;
        if (run.id === shown && run.active) run.poll();
        else run.follow(shown);
        if (shown === id) for (const message of warnings || []) run.history.warnings.push({ message });
        else tinv.announce("Added to the queue");
        scrollToStatus();
    }

    async function stop(id = tinv.run.id) {
        const { run } = tinv;
        if (id === run.id) {
            run.stopping = true;
            tinv.emit("run-updated");
        }
        const reply = await reportErrors(() => tinv.retryWhileOffline(() => tinv.call("stop", { run: id })));
        if (!reply) run.stopping = false;
        run.poll();
    }

    /** On a phone, and on a page scrolled down to Train, the status is out of sight. */
    function scrollToStatus() {
        const status = tinv.byId("tinv_status");
        const { top, bottom } = status.getBoundingClientRect();
        if (tinv.isVisible(status) && (top < 0 || bottom > innerHeight)) tinv.scrollTo(tinv.byId("tinv_run"), "start");
    }

    async function sample() {
        const { run } = tinv;
        run.sampleRequested = true; // something has to happen at once: the previews come after the step
        tinv.emit("run-updated");
        if (!(await reportErrors(() => tinv.call("sample", { run: run.id })))) run.sampleRequested = false;
        run.poll();
    }

    async function resume(id, { steps = null, form = null } = {}) {
        const { run } = tinv;
        if (run.submitting) return;
        run.submitting = true;
        tinv.emit("run-updated");
        const reply = await reportErrors(
            () => tinv.call("resume", { run: id, steps, form }, { timeoutS: 300 }),
            "The training is unchanged.",
        );
        run.submitting = false;
        startedAt = Date.now();
        if (reply) await showSubmitted({ run: reply.run || id });
        else tinv.emit("run-updated");
    }

    /** Makes a snapshot the embedding that prompts use. Asks before it replaces another; `note` shows the outcome. */
    async function useStep(run, step, note = null, overwrite = false) {
        const setNote = (...parts) => (note || tinv.byId("tinv_use_note"))?.replaceChildren(...parts);
        try {
            const reply = await tinv.call("use", { run, step, name: null, overwrite });
            tinv.emit("step-used", run, step);
            const text =
                step === null ? `${reply.name} is ready to use.` : `Step ${step} is now used for ${reply.name}.`;
            setNote(tinv.icon("check"), " ", text);
            tinv.announce(text);
            tinv.run.poll();
        } catch (error) {
            const exists = error.problems && error.problems.some((p) => ["overwrite", "name"].includes(p.option));
            const replace = h("button.tinv-button", { onclick: () => useStep(run, step, note, true) }, "Replace it");
            setNote(tinv.format.sentence(error.message), ...(exists && !overwrite ? [" ", replace] : []));
        }
    }

    async function download(run, step = null) {
        const reply = await reportErrors(() => tinv.call("download", { run, step }));
        if (!reply) return;
        const bytes = Uint8Array.from(atob(reply.data), (character) => character.charCodeAt(0));
        tinv.saveFile(new Blob([bytes]), reply.file);
    }

    function openFolder(run) {
        return reportErrors(
            () => tinv.call("open_folder", { run }),
            "Open the folder yourself.",
        );
    }

    async function deleteRun(run) {
        const reply = await reportErrors(() => tinv.call("delete", { run }, { timeoutS: 120 }));
        if (reply && tinv.run.id === run) tinv.run.follow(null);
        tinv.runs.refresh();
        tinv.run.poll();
    }

    /** The same training with settings that need less memory: from its last saved step if there is one, else anew. */
    async function retryWithLessMemory(report) {
        if (report.resumable) return resume(report.id, { form: { less_memory: true } });
        const reply = await reportErrors(() => tinv.call("settings", { run: report.id }));
        if (!reply) return;
        const { form } = reply;
        const batchSize = Number(form.batch_size) || 1;
        const accumulation = Number(form.gradient_accumulation) || 1;
        tinv.form.apply({
            ...form,
            batch_size: "1",
            gradient_accumulation: String(batchSize * accumulation),
            memory: ["fast", "auto"].includes(form.memory) ? "balanced" : "low",
            overwrite: false,
        });
        setTimeout(train, 300);
    }

    async function fillInExample() {
        const fillIn = async () => {
            await tinv.pictures.useExample();
            tinv.form.apply(EXAMPLE_FORM);
        };
        const text = tinv.pictures.count ? "The example has replaced your pictures." : "Example filled in.";
        await reportErrors(() => tinv.undo.formChange(text, fillIn, tinv.pictures.undo));
    }

    // Clicks

    const CLICK_ACTIONS = {
        tinv_train: train,
        tinv_stop: () => stop(),
        tinv_sample_now: sample,
        tinv_try: () => tinv.tryIt.show(),
        tinv_resume: () => {
            const run = tinv.buttons.resumableRun();
            if (run) return resume(run.id);
        },
        tinv_example: fillInExample,
    };
    const busyButtons = new Set(); // ids of buttons whose last click is still at work

    async function onClick(event) {
        const id = event.target.closest && Object.keys(CLICK_ACTIONS).find((key) => event.target.closest(`#${key}`));
        if (!id || (buttonById(id) || {}).disabled || busyButtons.has(id)) return;
        busyButtons.add(id);
        try {
            await CLICK_ACTIONS[id]();
        } finally {
            busyButtons.delete(id);
        }
    }

    tinv.ready(() => {
        document.addEventListener("click", onClick, true); // while capturing: before gradio, and once per click
    });
})();
