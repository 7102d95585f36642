// How the followed training goes: the status line, the bar, the tab's title, and what a screen reader hears.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);
    let announced = "",
        titled = false,
        shownShare = 0;

    const box = () => tinv.byId("tinv_status").querySelector(".tinv-status");
    const lastStep = () => {
        const all = [...tinv.run.line.steps.values()];
        return all[all.length - 1];
    };

    function sentence(run, state) {
        const data = run.data || {},
            now = lastStep();
        if (run.asking) return ["Checking…"];
        if (run.stopping) return data.step ? tinv.words("Saving step {}…", data.step) : ["Stopping…"];
        switch (state) {
            case "idle":
                return [tinv.pictures.count ? "Ready. Press Train when all is set." : "Ready. Add pictures to begin."];
            case "queued":
                return data.place > 0
                    ? tinv.words(
                          data.place === 1 ? "Waiting: {} training goes first" : "Waiting: {} trainings go first",
                          data.place,
                      )
                    : ["Waiting for the WebUI to finish what it is doing"];
            case "loading":
                return ["Loading the checkpoint…"];
            case "encoding":
                return run.line.encoding
                    ? tinv.words("Reading the pictures: {} of {}", run.line.encoding.done, run.line.encoding.images)
                    : ["Reading the pictures…"];
            case "training": {
                const left = now && now.seconds_left;
                const time = Number.isFinite(left) && left > 0 ? tinv.words(" · {} left", tinv.duration(left)) : [];
                return [...tinv.words("Learning: step {} of {}", data.step, data.steps), ...time];
            }
            case "saving":
                return tinv.words("Saving step {}…", data.step);
            case "finished":
                return tinv.words("Finished: {} is ready after {} steps", data.out_name || data.name, data.step);
            case "stopped":
                return data.state === "interrupted"
                    ? tinv.words("Interrupted at step {} of {}", data.step, data.steps)
                    : tinv.words("Stopped at step {} of {}", data.step, data.steps);
            case "failed":
                return data.step ? tinv.words("Failed at step {} of {}", data.step, data.steps) : ["Failed"];
            default:
                return [state];
        }
    }

    function facts(run, state) {
        const now = lastStep();
        if (!now || ["idle", "queued"].includes(state)) return [];
        const parts = [];
        const fact = (name, value) =>
            parts.push(h("span.tinv-fact", {}, h("span", {}, name), " ", h("b.tinv-value", {}, value)));
        if (now.images_per_s && run.active)
            fact(
                "Speed",
                `${now.images_per_s >= 10 ? Math.round(now.images_per_s) : now.images_per_s.toPrecision(2)} pictures/s`,
            );
        if (Number.isFinite(now.smoothed_loss ?? now.loss)) fact("Loss", (now.smoothed_loss ?? now.loss).toFixed(4));
        if (now.memory_mb) fact("Memory", tinv.memorySize(now.memory_mb));
        const memory = run.data && run.data.memory;
        if (memory && memory.mode !== "fast") fact("Memory mode", memory.mode);
        return parts;
    }

    function note(run, state) {
        if (run.offline) return ["The WebUI does not answer; trying again"];
        if (run.active) {
            const name = run.data ? h("b", {}, run.data.name) : null;
            return [name, name ? " · " : null, "You can close this page; training goes on."];
        }
        const other = run.world.active;
        if (other && other !== run.id && !run.asking) {
            return [
                "Another word is being trained: ",
                h("button.tinv-link", { onclick: () => tinv.run.follow(other) }, other.split("/")[0]),
            ];
        }
        return state === "idle" && !run.asking ? tinv.status.idleNote() : [];
    }

    function progress(run, state) {
        const { step = 0, steps = 0 } = run.data || {};
        const share = steps ? Math.min(1, step / steps) : 0;
        const bar = tinv.byId("tinv_progress");
        const unsure = run.asking || state === "loading" || state === "encoding";
        bar.classList.toggle("tinv-unsure", unsure);
        bar.classList.toggle("tinv-moving", run.active && share >= shownShare); // it grows smoothly, and never runs back
        shownShare = share;
        bar.firstElementChild.style.width = `${unsure ? 100 : share * 100}%`;
        if (unsure) bar.removeAttribute("aria-valuenow");
        else bar.setAttribute("aria-valuenow", Math.round(share * 100));
        title(run.active && state !== "queued" ? share : null);
        speak(run, state, share);
    }

    /** "[23%]" before the page's title, as the host does for its own work, and only if it does. */
    function title(share) {
        const wanted = !window.opts || window.opts.show_progress_in_title !== false;
        if (share === null && !titled) return;
        const plain = document.title.replace(/^\[[^\]]*\] /, "");
        document.title = share === null || !wanted ? plain : `[${Math.floor(share * 100)}%] ${plain}`;
        titled = share !== null;
    }

    function speak(run, state, share) {
        const key = `${run.id} ${state} ${state === "training" ? Math.floor(share * 10) : ""}`;
        if (key === announced) return;
        announced = key;
        if (state !== "idle")
            tinv.announce(
                state === "training"
                    ? `Learning: ${Math.floor(share * 10) * 10} percent`
                    : box().querySelector("#tinv_status_text").textContent,
            );
    }

    function draw() {
        const run = tinv.run,
            state = run.state,
            place = box();
        place.dataset.state = state;
        place.dataset.step = (run.data && run.data.step) || 0;
        tinv.fill(tinv.byId("tinv_status_text"), ...sentence(run, state));
        tinv.fill(tinv.byId("tinv_facts"), ...facts(run, state));
        tinv.fill(tinv.byId("tinv_status_note"), ...note(run, state));
        place.classList.toggle("tinv-offline", run.offline);
        progress(run, state);
    }

    tinv.status = { draw, idleNote: () => [] };
    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        tinv.on("run", draw);
        tinv.on("pictures", draw);
        draw();
    });
})();
