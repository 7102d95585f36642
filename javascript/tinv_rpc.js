// The way to Python: one address, JSON both ways, no toast when the WebUI is away.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const lanes = {};

    /** Why a request came to nothing. `offline`: nobody answered; `problems`: [{option, message}]; `details` for a report. */
    class Failure extends Error {
        constructor(message, { offline = false, problems = [], details = "" } = {}) {
            super(message);
            Object.assign(this, { offline, problems, details });
        }
    }
    tinv.Failure = Failure;

    const base = () => location.origin + location.pathname.replace(/[^/]*$/, "");

    async function send(path, options, seconds) {
        const giveUp = new AbortController();
        const timer = setTimeout(() => giveUp.abort(), seconds * 1000);
        try {
            const response = await fetch(base() + path, {
                method: "POST",
                credentials: "same-origin",
                signal: giveUp.signal,
                ...options,
            });
            if (response.status === 401) throw new Failure("You are logged out: reload the page.");
            if (!response.ok) throw new Failure(`The WebUI answered with error ${response.status}`, { offline: true });
            return await response.json();
        } catch (error) {
            throw error instanceof Failure
                ? error
                : new Failure("The WebUI does not answer", { offline: true, details: String(error) });
        } finally {
            clearTimeout(timer);
        }
    }

    async function ask(action, args, seconds) {
        const body = JSON.stringify({ data: [JSON.stringify({ do: action, ...args })] });
        const reply = JSON.parse(
            (await send("run/tinv", { headers: { "Content-Type": "application/json" }, body }, seconds)).data[0],
        );
        if (reply && reply.error) throw new Failure(reply.error, { details: reply.details });
        if (reply && reply.problems && action !== "check") {
            throw new Failure(reply.problems.map((p) => p.message).join("; "), { problems: reply.problems });
        }
        return reply;
    }

    /** Carry out an action. Those of one lane wait for each other; the others do not. Throws Failure. */
    tinv.call = (action, args = {}, { lane = null, seconds = 60 } = {}) => {
        if (!lane) return ask(action, args, seconds);
        const turn = (lanes[lane] || Promise.resolve()).catch(() => {}).then(() => ask(action, args, seconds));
        lanes[lane] = turn;
        return turn;
    };

    /** Put a file on the server; gives the path that `add` takes. */
    tinv.upload = async (file) => {
        const body = new FormData();
        body.append("files", file, file.name);
        return (await send("upload", { body }, 600))[0];
    };

    /** Try again while nobody answers, ever more seldom; `onWait` hears of each failure. */
    tinv.insist = async (attempt, onWait = () => {}) => {
        for (let pause = 1; ; pause = Math.min(15, pause * 2)) {
            try {
                return await attempt();
            } catch (error) {
                if (!error.offline) throw error;
                onWait(error);
                await new Promise((resolve) => setTimeout(resolve, pause * 1000));
            }
        }
    };
})();
