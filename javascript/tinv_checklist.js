// What a training needs, above Train: pictures, a word, and what it costs. What is missing can be clicked.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h, phrase } = tinv;
    const PATIENCE_MS = 500; // so long the page waits for Python before it says what it knows by itself
    const HINTS = {
        subject: "4 are enough to start. Show the same thing each time; vary background, light and angle.",
        style: "4 are enough to start. Show the same style each time; vary what is in the picture.",
        negative: "4 are enough to start. Choose pictures that went wrong in the same way; vary what they show.",
    };
    let check = null; // the last reply about the form

    tinv.checklist = {
        /** What stands in the way of a training, [{option, message}]; null where nobody answers, so that it is not known. */
        async missing() {
            await tinv.pictures.saved();
            await tinv.form.collect();
            try {
                const args = { form: tinv.form.payload(), draft: tinv.pictures.draft };
                return (await tinv.call("check", args, { timeoutS: 20 })).missing || [];
            } catch (error) {
                return error.offline ? null : [];
            }
        },

        /** Shows what is missing, and returns whether anything is. `isAbout`: of a problem, whether it counts. */
        async stops(isAbout = () => true) {
            const known = obvious().filter(isAbout);
            const early = setTimeout(() => known.length && tinv.problems.show(known), PATIENCE_MS);
            const missing = ((await tinv.checklist.missing()) || known).filter(isAbout);
            clearTimeout(early);
            if (missing.length) tinv.problems.show(missing);
            return missing.length > 0;
        },
    };

    /** What the page itself knows to be missing. */
    function obvious() {
        const problems = [];
        if (!tinv.pictures.count && !tinv.uploads.progress().length)
            problems.push({ option: "images", message: "add pictures first; four are enough to start" });
        if (!String(tinv.form.values.name || "").trim())
            problems.push({ option: "name", message: "the name is empty; choose a word such as my-mug" });
        return problems;
    }

    function row(item, isDone, text, option = item) {
        const element = byId("tinv_checklist").querySelector(`[data-item="${item}"]`);
        element.dataset.done = String(isDone);
        const mark = h(`span.tinv-mark.${isDone ? "tinv-ok" : "tinv-missing"}`, {}, tinv.icon(isDone ? "check" : "ring"));
        const focus = { onclick: () => tinv.problems.focus(option) };
        const content = isDone ? h("span", {}, ...text) : h("button.tinv-link", focus, ...text);
        const key = `${isDone} ${content.textContent}`;
        if (element.dataset.drawn === key) return;
        element.dataset.drawn = key;
        element.replaceChildren(mark, " ", content);
    }

    /** What the pictures should have in common depends on what is learned. */
    function drawHint() {
        const hint = HINTS[tinv.form.values.kind];
        if (hint) tinv.setText(byId("tinv_drop_hint"), hint);
    }

    function drawPictures() {
        const { count } = tinv.pictures;
        row("images", count > 0, count > 1 ? phrase("{} pictures", count) : [count ? "1 picture" : "Add pictures"]);
    }

    function drawWord() {
        const name = String(tinv.form.values.name || "").trim();
        const { state } = (check && check.name) || {};
        const isFree = ["free", "word"].includes(state) || (state === "taken" && tinv.form.values.overwrite);
        if (!name) return row("name", false, ["Type a word"]);
        if (state === "running") return row("name", false, phrase("{} is in training", name));
        if (state === "taken" && !isFree) return row("name", false, phrase("{} exists: replace or rename", name));
        if (state === "bad") return row("name", false, ["Choose another word"]);
        row("name", true, phrase("{}", name));
    }

    /** What else is wrong with the form; the cost stands there otherwise. */
    function drawCost() {
        const others = ((check && check.missing) || []).filter(({ option }) => !["images", "name"].includes(option));
        const cost = byId("tinv_checklist").querySelector("[data-item=cost]");
        tinv.setHidden(cost, others.length > 0 || !byId("tinv_estimate").textContent);
        const rest = byId("tinv_checklist").querySelector("[data-item=settings]");
        tinv.setHidden(rest, !others.length);
        if (!others.length) return;
        const isCheckpoint = others[0].option === "model";
        const text = isCheckpoint ? ["Choose a checkpoint"] : phrase("{} settings to correct", others.length);
        row("settings", false, others.length === 1 && !isCheckpoint ? ["1 setting to correct"] : text, others[0].option);
    }

    function draw() {
        drawHint();
        drawPictures();
        drawWord();
        drawCost();
        tinv.setHidden(byId("tinv_checklist"), tinv.buttons.isDone, "done");
        // while a word is learned the list is about the next one, if there is to be one
        const isNext = Boolean(tinv.run.serverStatus.active);
        const isSame = (check && check.name && check.name.state) === "running" || !String(tinv.form.values.name || "").trim();
        tinv.setHidden(byId("tinv_checklist"), isNext && isSame, "learning");
    }

    tinv.ready(() => {
        tinv.on("form-checked", (reply) => {
            check = reply;
            setTimeout(draw); // after the estimate has been written
        });
        for (const event of ["pictures-changed", "form-changed", "run-updated"]) tinv.on(event, draw);
        draw();
    });
})();
