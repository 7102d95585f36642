// The buttons: Train, Stop, Sample now, Resume, and what is offered when a training has ended.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);
    const DELICATE = 1500; // ms after a start in which the button under the pointer has another meaning than a moment ago
    let startedAt = 0;

    const button = (id) => {
        const place = tinv.byId(id);
        return place && (place.tagName === "BUTTON" ? place : place.querySelector("button"));
    };
    const enable = (id, on) => {
        const it = button(id);
        if (it) it.disabled = !on;
    };
    const label = (id, text) => {
        const it = button(id);
        if (it && it.textContent.trim() !== text) it.textContent = text;
    };

    /** The run that Resume would go on with: the one that was followed to its end, else the newest that was cut short. */
    function resumable() {
        const { run } = tinv;
        if (run.asking || run.active) return null;
        if (run.data) return run.data.resumable && ["stopped", "failed"].includes(run.state) ? run.data : null;
        return tinv.runs.all.find((one) => one.resumable && ["interrupted", "stopped"].includes(one.state)) || null;
    }

    function buttons() {
        const { run } = tinv,
            state = run.state;
        enable("tinv_train", !run.asking);
        label("tinv_train", run.asking ? "Checking…" : run.world.active ? "Add to queue" : "Train");
        enable("tinv_stop", run.active && !run.stopping && state !== "saving");
        label("tinv_stop", run.stopping ? "Stopping…" : "Stop");
        enable("tinv_sample_now", state === "training" && !run.stopping);
        const next = resumable();
        enable("tinv_resume", Boolean(next));
        label("tinv_resume", next ? `Resume ${next.name}` : "Resume");
        button("tinv_resume").title = next
            ? `Go on with ${next.name} at step ${next.step} of ${next.steps}`
            : "There is nothing to go on with";
    }

    async function attempt(work, todo) {
        try {
            tinv.problems.clear();
            return await work();
        } catch (error) {
            if (error.problems && error.problems.length) tinv.problems.show(error.problems);
            else tinv.problems.error(error, todo);
        }
        return null;
    }

    async function train() {
        const { run } = tinv;
        if (run.asking || Date.now() - startedAt < DELICATE) return;
        const token = tinv.randomHex(),
            draft = tinv.pictures.draft;
        run.asking = true;
        run.follow(null);
        let started = null;
        await attempt(async () => {
            await tinv.pictures.settled();
            await tinv.form.collect();
            const form = tinv.form.payload();
            const wait = () => {
                run.offline = true;
                tinv.emit("run");
            };
            started = await tinv.insist(
                () => tinv.call("train", { form, draft, token }, { lane: "train", seconds: 300 }),
                wait,
            );
        });
        run.asking = false;
        run.offline = false;
        if (started) {
            startedAt = Date.now();
            tinv.memory.set("trained", started.run);
            tinv.form.apply({ overwrite: false });
        }
        run.follow(started ? started.run : null);
        for (const message of (started && started.warnings) || []) run.line.warnings.push({ message });
        if (started) bringIntoView();
    }

    async function stop(id = tinv.run.id) {
        const { run } = tinv;
        if (id === run.id) {
            run.stopping = true;
            tinv.emit("run");
        }
        const reply = await attempt(() => tinv.insist(() => tinv.call("stop", { run: id })));
        if (!reply) run.stopping = false;
        run.poll();
    }

    /** On a phone, and on a page scrolled down to Train, the status is elsewhere. */
    function bringIntoView() {
        const { top, bottom } = tinv.byId("tinv_status").getBoundingClientRect();
        if (tinv.isShown(tinv.byId("tinv_status")) && (top < 0 || bottom > innerHeight))
            tinv.scrollTo(tinv.byId("tinv_run"), "start");
    }

    const sample = async () => {
        await attempt(() => tinv.call("sample", { run: tinv.run.id }));
        tinv.run.poll();
    };

    async function resume(id, { steps = null, form = null } = {}) {
        const { run } = tinv;
        if (run.asking) return;
        run.asking = true;
        tinv.emit("run");
        const reply = await attempt(
            () => tinv.call("resume", { run: id, steps, form }, { seconds: 300 }),
            "The run is as it was.",
        );
        run.asking = false;
        startedAt = Date.now();
        if (reply) {
            run.follow(reply.run || id);
            bringIntoView();
        } else tinv.emit("run");
    }

    /** Make a snapshot the word that prompts use. Where that would replace a word, it asks. */
    async function use(run, step, { overwrite = false, name = null } = {}, place = null) {
        const say = (...parts) => {
            const note = place || tinv.byId("tinv_use_note");
            if (note) note.replaceChildren(...parts);
        };
        try {
            const reply = await tinv.call("use", { run, step, name, overwrite });
            tinv.emit("used", run, step);
            const text =
                step === null ? `${reply.name} is ready to use.` : `${reply.name} is now what it was at step ${step}.`;
            say("✓ ", text);
            tinv.announce(text);
            tinv.run.poll();
        } catch (error) {
            const taken = error.problems && error.problems.some((p) => ["overwrite", "name"].includes(p.option));
            const replace =
                taken &&
                !overwrite &&
                h(
                    "button.tinv-button",
                    { onclick: () => use(run, step, { overwrite: true, name }, place) },
                    "Replace it",
                );
            say(tinv.sentence(error.message), replace ? " " : "", replace || "");
        }
    }

    async function download(run, step = null) {
        const reply = await attempt(() => tinv.call("download", { run, step }));
        if (!reply) return;
        const bytes = Uint8Array.from(atob(reply.data), (c) => c.charCodeAt(0));
        const link = h("a", { href: URL.createObjectURL(new Blob([bytes])), download: reply.file });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    }

    const openFolder = (run) =>
        attempt(() => tinv.call("open_folder", { run }), "Open it by hand; its name is that of the run.");

    async function remove(run) {
        const done = await attempt(() => tinv.call("delete", { run }, { seconds: 120 }));
        if (done && tinv.run.id === run) tinv.run.follow(null);
        tinv.runs.refresh();
        tinv.run.poll();
    }

    /** The same training with settings that need less memory: from its last saved step if there is one, else anew. */
    async function withLessMemory(data) {
        if (data.resumable) return resume(data.id, { form: { less_memory: true } });
        const old = await attempt(() => tinv.call("settings", { run: data.id }));
        if (!old) return;
        const batch = Number(old.form.batch_size) || 1,
            folded = Number(old.form.gradient_accumulation) || 1;
        const smaller = {
            batch_size: "1",
            gradient_accumulation: String(batch * folded),
            memory: old.form.memory === "fast" || old.form.memory === "auto" ? "balanced" : "low",
        };
        tinv.form.apply({ ...old.form, ...smaller, overwrite: false });
        setTimeout(train, 300);
    }

    tinv.actions = { train, stop, sample, resume, use, download, openFolder, remove, withLessMemory };

    async function example() {
        const reply = await attempt(() => tinv.pictures.example());
        if (!reply) return;
        tinv.form.apply(reply.form || { name: "my-coin", kind: "subject", init_text: "object" });
        tinv.announce("An example is filled in");
    }

    const CLICKS = {
        tinv_train: train,
        tinv_stop: () => stop(),
        tinv_sample_now: sample,
        tinv_resume: () => {
            const next = resumable();
            if (next) resume(next.id);
        },
        tinv_example: example,
    };

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        const busy = new Set();
        document.addEventListener(
            "click",
            async (event) => {
                // while it is on its way down: before gradio, once per click
                const id = event.target.closest && Object.keys(CLICKS).find((one) => event.target.closest(`#${one}`));
                if (!id || (button(id) || {}).disabled || busy.has(id)) return;
                busy.add(id);
                try {
                    await CLICKS[id]();
                } finally {
                    busy.delete(id);
                }
            },
            true,
        );
        tinv.on("run", buttons);
        tinv.on("runs", buttons);
        buttons();
    });
})();
