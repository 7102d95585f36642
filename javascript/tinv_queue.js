// The trainings that wait, under the one that is shown: their order, how long each takes, and taking one out again.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    let drawnKey = "";
    let removed = null; // {run, name}: the one that was taken out last

    async function change(action, args) {
        try {
            await tinv.call(action, args, { queue: "queue", timeoutS: 120 });
        } catch (error) {
            tinv.problems.showError(error);
            return false;
        }
        tinv.run.poll();
        return true;
    }

    async function remove({ run, name }) {
        if (!(await change("stop", { run }))) return;
        removed = { run, name };
        tinv.announce(`${name} is removed from the queue`);
        draw();
    }

    async function putBack() {
        const { run } = removed;
        removed = null;
        await change("resume", { run, steps: null, form: null });
        draw();
    }

    function item(waiting, i, all) {
        const { run, name, seconds } = waiting;
        const move = (label, icon, place) =>
            h(
                "button.tinv-button.tinv-move",
                {
                    "aria-label": `${label}: ${name}`,
                    title: label,
                    disabled: place < 1 || place > all.length,
                    onclick: () => change("move", { run, after: place }),
                },
                tinv.icon(icon),
            );
        const time = seconds ? tinv.phrase(" · about {}", tinv.format.duration(seconds)) : [];
        const arrows = all.length > 1 ? [move("Train it sooner", "up", i), move("Train it later", "down", i + 2)] : [];
        return h(
            "li.tinv-waiting",
            { "data-run": run },
            h("span", {}, i ? `${i + 1}. ` : "Next: ", h("b", {}, name), ...time),
            h(
                "span.tinv-row",
                {},
                ...arrows,
                h("button.tinv-button", { onclick: () => remove(waiting), "aria-label": `Remove ${name}` }, "Remove"),
            ),
        );
    }

    function draw() {
        const { queue = [], active } = tinv.run.serverStatus;
        // a queued training that has been opened by itself stands under the one that learns
        const waiting = queue.filter(({ run }) => run !== active);
        if (removed) {
            const isBack = waiting.some(({ run }) => run === removed.run);
            if (isBack && removed.isGone) removed = null; // resumed elsewhere
            else removed.isGone = removed.isGone || !isBack;
        }
        const key = JSON.stringify([
            waiting.map((row) => ({ ...row, seconds: Math.round((row.seconds || 0) / 5) })),
            removed && removed.run,
        ]);
        if (key === drawnKey) return;
        drawnKey = key;
        const note = removed
            ? [
                  h("p.tinv-note", {}, ...tinv.phrase("{} is removed from the queue. ", removed.name),
                      h("button.tinv-link", { onclick: putBack }, "Undo")),
              ]
            : [];
        const list = h("ol.tinv-queue", { "aria-label": "Waiting trainings" }, ...waiting.map(item));
        byId("tinv_queue").replaceChildren(...(waiting.length ? [list] : []), ...note);
        tinv.setHidden(byId("tinv_queue"), !waiting.length && !removed);
    }

    tinv.ready(() => {
        tinv.on("run-updated", draw);
        tinv.on("run-submitted", () => {
            removed = null;
            draw();
        });
    });
})();
