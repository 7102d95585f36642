// The training that the page follows: polled from its run folder's events, so that a reload shows it as it is.
(() => {
    "use strict";
    const { tinv } = window;
    const ACTIVE_STATES = new Set(["queued", "loading", "encoding", "training", "saving"]);
    const SAMPLED = new Set(["preview", "test"]); // what may come between two pictures of one round
    const ACTIVE_POLL_MS = 1000;
    const IDLE_POLL_MS = 5000;
    const HIDDEN_POLL_MS = 30000; // in a background tab, for the title and the sound at the end
    const LONGEST_PAUSE_MS = 15000; // between attempts while the WebUI does not answer

    let timer = null;
    let polling = false;
    let pollAgain = false; // somebody asked for a poll while one was under way
    let failures = 0;
    let followCount = 0; // a reply belongs to the run that was followed when it was asked for

    let isRestored = false; // the followed run is that of the last visit

    const emptyHistory = () => ({
        steps: new Map(), // by step, its event
        previews: new Map(), // by previewKey, its event
        snapshots: new Set(), // steps whose vectors were kept
        validation: new Map(), // by step, its event
        warnings: [],
        encoding: null, // the last event of reading the pictures
        sampling: null, // the event of the picture that is being made
        searching: null, // the last event of trying words to start from
        best: null, // {step, reason}: the step that the training recommends at its end
        finishReason: "", // why it ended before its last step
        earlierTests: new Map(), // of the end before this one
        tests: new Map(), // by prompt_index, the event of a picture of the finished embedding
    });

    const run = (tinv.run = {
        id: null,
        report: null, // the last reply about this run, without its events
        history: emptyHistory(),
        serverStatus: {}, // the last reply to a poll: what holds for the WebUI, whichever run is followed
        submitting: false, // Train or Resume was clicked, and Python has not answered yet
        stopping: false,
        sampleRequested: false, // Sample now was clicked, and nothing has come of it yet
        offline: false,
        eventsOffset: 0, // in bytes: the events before it are in the history

        /** A run that is learning is shown as it is, also while another one is being submitted. */
        get state() {
            const shown = run.report ? run.report.state : run.id ? "loading" : "idle";
            return run.submitting && !ACTIVE_STATES.has(shown) ? "loading" : shown;
        },
        get active() {
            return Boolean(run.id) && ACTIVE_STATES.has(run.report ? run.report.state : "loading");
        },
        /** Train or Resume was clicked, and there is nothing else to show meanwhile. */
        get checking() {
            return run.submitting && !run.active;
        },
        /** Ended without having been stopped: the WebUI or the computer went down. */
        get interrupted() {
            return run.state === "stopped" && Boolean(run.report && run.report.message);
        },

        previewKey: ({ step, prompt_index, seed_index }) => `${step}-${prompt_index}-${seed_index}`,

        /** Shows another run, or none. */
        follow(id) {
            followCount += 1;
            const nothingYet = { report: null, history: emptyHistory(), eventsOffset: 0, stopping: false };
            Object.assign(run, { id, ...nothingYet, sampleRequested: false });
            tinv.storage.set("run", id); // a reload shows it again
            tinv.emit("run-followed", id);
            tinv.emit("run-updated");
            run.poll();
        },

        /** Polls now. */
        poll() {
            clearTimeout(timer);
            if (polling) pollAgain = true;
            else poll();
        },
    });

    async function poll() {
        polling = true;
        pollAgain = false;
        const followedAtStart = followCount;
        let hasMore = false;
        try {
            const reply = await tinv.call("poll", { run: run.id, after: run.eventsOffset }, { timeoutS: 30 });
            failures = 0;
            run.offline = false;
            if (followedAtStart === followCount) hasMore = processReply(reply);
        } catch (error) {
            failures += 1;
            run.offline = true;
            tinv.emit("run-updated");
            if (!error.offline && run.id && !run.report) run.follow(null); // the run is gone
        }
        polling = false;
        schedule(hasMore || pollAgain || followedAtStart !== followCount);
    }

    function schedule(immediately) {
        clearTimeout(timer);
        const isTraining = run.submitting || run.active || Boolean(run.serverStatus.active);
        if (document.hidden && !isTraining) return; // polled again once the page is visible
        const isWorking = run.active || Boolean(run.serverStatus.trying && run.serverStatus.trying.total);
        const interval = document.hidden ? HIDDEN_POLL_MS : isWorking ? ACTIVE_POLL_MS : IDLE_POLL_MS;
        const backoff = Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** (failures - 1));
        timer = setTimeout(poll, failures ? backoff : immediately ? 0 : interval);
    }

    /** Returns whether there are more events to fetch. */
    function processReply(reply) {
        updateServerStatus(reply);
        if (isRestored && reply.active && reply.active !== run.id) {
            isRestored = false; // what is learning comes before what was shown last
            run.follow(reply.active);
            return true;
        }
        isRestored = false;
        if (run.id && !reply.run) {
            run.follow(null); // it was deleted
            return true;
        }
        if (!run.id && reply.active && !run.submitting) {
            run.follow(reply.active);
            return true;
        }
        if (run.id) updateRun(reply.run);
        tinv.emit("run-updated");
        return Boolean(reply.run && reply.run.more);
    }

    function updateServerStatus(status) {
        const previous = run.serverStatus;
        run.serverStatus = status;
        tinv.picker.onLibraryVersion(status.library);
        if (previous.library !== undefined && status.library !== previous.library) {
            const filesVersion = (version) => version.split("-")[0]; // what follows is the checkpoint
            const filesChanged = filesVersion(status.library) !== filesVersion(previous.library);
            tinv.emit("embeddings-changed", filesChanged);
        }
        if (status.runs !== previous.runs) tinv.emit("runs-changed");
    }

    function updateRun(report) {
        const wasActive = run.report && ACTIVE_STATES.has(run.report.state);
        const isActive = ACTIVE_STATES.has(report.state);
        run.report = report;
        run.eventsOffset = report.after;
        for (const event of report.events) if (isSound(event)) addEvent(event);
        for (const step of report.snapshots || []) run.history.snapshots.add(step);
        if (!isActive) run.stopping = run.sampleRequested = false;
        else if (report.stopping) run.stopping = true;
        if (wasActive && !isActive) tinv.emit("run-ended", report);
    }

    /** Numbers are numbers: the server has left out all others, and an event without those it needs is not drawn. */
    function isSound(event) {
        const needed = { step: ["step", "loss"], validation: ["step", "loss", "change"] }[event.kind] || [];
        return needed.every((field) => Number.isFinite(event[field]));
    }

    function addEvent(event) {
        const { history } = run;
        history.sampling = event.kind === "sampling" ? event : SAMPLED.has(event.kind) ? history.sampling : null;
        if (event.kind === "sampling") run.sampleRequested = false;
        if (event.kind === "step") history.steps.set(event.step, event);
        else if (event.kind === "preview") history.previews.set(run.previewKey(event), event);
        else if (event.kind === "snapshot") history.snapshots.add(event.step);
        else if (event.kind === "validation") history.validation.set(event.step, event);
        else if (event.kind === "warning") history.warnings.push(event);
        else if (event.kind === "encoding") history.encoding = event;
        else if (event.kind === "searching") history.searching = event;
        else if (event.kind === "best") history.best = event;
        else if (event.kind === "test") history.tests.set(event.prompt_index, event);
        else if (event.kind === "finished") history.finishReason = event.reason || "";
        else if (event.kind === "loading") forgetEnd(history);
        // a word that was not delivered anew is still the one that these pictures show
        else if (["stopped", "failed"].includes(event.kind) && !history.tests.size) history.tests = history.earlierTests;
    }

    /** A run that goes on has not ended any more. */
    function forgetEnd(history) {
        const { best, finishReason, tests } = emptyHistory();
        const earlierTests = history.tests.size ? history.tests : history.earlierTests;
        Object.assign(history, { best, finishReason, tests, earlierTests });
    }

    tinv.ready(() => {
        document.addEventListener("visibilitychange", () => {
            if (!document.hidden) run.poll();
        });
        window.addEventListener("online", () => run.poll());
        const shownLast = tinv.storage.get("run", null);
        isRestored = Boolean(shownLast);
        if (shownLast) run.follow(shownLast);
        else run.poll();
    });
})();
