// The training this page follows: polled from its run folder's events, so that a reload finds it as it is.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const ACTIVE = new Set(["queued", "loading", "encoding", "training", "saving"]);
    const SOON = 1000,
        SELDOM = 5000,
        HIDDEN = 30000,
        LONGEST = 15000;
    let timer = null,
        polling = false,
        again = false,
        failures = 0,
        generation = 0;

    const blank = () => ({
        steps: new Map(),
        previews: new Map(),
        snapshots: new Set(),
        validation: new Map(),
        warnings: [],
        encoding: null,
    });

    const run = (tinv.run = {
        id: null,
        data: null, // the last that was heard of it
        line: blank(),
        world: {}, // active, queue, lending, ...: what is true of the WebUI whatever is followed
        asking: false, // Train was clicked and Python has not said yes or no
        stopping: false,
        offline: false,
        after: 0,

        get state() {
            if (run.asking) return "loading";
            const state = run.data ? run.data.state : run.id ? "loading" : "idle";
            return state === "interrupted" ? "stopped" : state === "running" ? "training" : state;
        },
        get active() {
            return !run.asking && ACTIVE.has(run.state);
        },

        /** Show another run, or none. */
        follow(id) {
            generation += 1;
            Object.assign(run, { id, data: null, line: blank(), after: 0, stopping: false });
            tinv.emit("follow", id);
            tinv.emit("run");
            run.poll();
        },
        poll() {
            clearTimeout(timer);
            if (polling) again = true;
            else poll();
        },
        isActive: (state) => ACTIVE.has(state),
    });

    const page = () =>
        tinv.isShown(tinv.byId("tab_textual_inversion") || tinv.byId("tinv_status")) ? "tab" : "txt2img";

    async function poll() {
        polling = true;
        again = false;
        const mine = generation;
        let more = false;
        try {
            const reply = await tinv.call("poll", { run: run.id, after: run.after, page: page() }, { seconds: 30 });
            failures = 0;
            run.offline = false;
            if (mine === generation) more = take(reply);
        } catch (error) {
            failures += 1;
            run.offline = true;
            tinv.emit("run");
            if (!error.offline && run.id && !run.data) run.follow(null); // the run is gone
        }
        polling = false;
        schedule(more || again || mine !== generation);
    }

    function schedule(atOnce) {
        clearTimeout(timer);
        const busy = run.asking || run.active || Boolean(run.world.active);
        if (document.hidden && !busy) return; // the page hears of it when it is looked at again
        const calm = document.hidden ? HIDDEN : run.active ? SOON : SELDOM; // hidden: for the title and the sound at the end
        const pause = failures ? Math.min(LONGEST, 1000 * 2 ** (failures - 1)) : atOnce ? 0 : calm;
        timer = setTimeout(poll, pause);
    }

    function take(reply) {
        const before = run.world;
        run.world = reply;
        if (tinv.libraryChanged) tinv.libraryChanged(reply.library);
        if (before.library !== undefined && reply.library !== before.library) {
            const files = (version) => version.split("-")[0]; // the rest is the checkpoint
            tinv.emit("library", files(reply.library) !== files(before.library));
        }
        if (reply.runs !== before.runs) tinv.emit("runs changed");
        const was = run.data && run.data.state;
        if (run.id && reply.run) {
            if (reply.run.reset) run.line = blank();
            run.data = reply.run;
            run.after = reply.run.after;
            for (const event of reply.run.events) add(event);
            for (const step of reply.run.snapshots || []) run.line.snapshots.add(step);
            if (!ACTIVE.has(reply.run.state)) run.stopping = false;
            else if (reply.run.stopping) run.stopping = true;
            if (was && ACTIVE.has(was) && !ACTIVE.has(reply.run.state)) tinv.emit("ended", reply.run);
        } else if (run.id) {
            // it was deleted
            run.follow(null);
            return true;
        } else if (!run.id && reply.active && !run.asking) {
            run.follow(reply.active);
            return true;
        }
        tinv.emit("run");
        return Boolean(reply.run && reply.run.more);
    }

    function add(event) {
        const { line } = run;
        if (event.kind === "step") line.steps.set(event.step, event);
        else if (event.kind === "preview")
            line.previews.set(`${event.step}-${event.prompt_index}-${event.seed_index}`, event);
        else if (event.kind === "snapshot") line.snapshots.add(event.step);
        else if (event.kind === "validation") line.validation.set(event.step, event.loss);
        else if (event.kind === "warning") line.warnings.push(event);
        else if (event.kind === "encoding") line.encoding = event;
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        document.addEventListener("visibilitychange", () => {
            if (!document.hidden) run.poll();
        });
        window.addEventListener("online", () => run.poll());
        run.poll();
    });
})();
