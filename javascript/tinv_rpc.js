// Calls to Python: JSON in both directions through one address, without gradio's toasts while the WebUI is away.
(() => {
    "use strict";
    const { tinv } = window;
    const REFUSALS = [403, 404, 409, 413, 415, 429]; // with the reason as JSON
    const queues = {}; // by name, the promise of the queue's last call

    /** Why a request failed. `offline`: nobody answered; `problems`: [{option, message}]; `details`: for a report. */
    class RequestError extends Error {
        constructor(message, { offline = false, problems = [], details = "" } = {}) {
            super(message);
            Object.assign(this, { offline, problems, details });
        }
    }

    const baseUrl = () => location.origin + location.pathname.replace(/[^/]*$/, "");

    async function post(path, options, timeoutS) {
        const abort = new AbortController();
        const timer = setTimeout(() => abort.abort(), timeoutS * 1000);
        try {
            const response = await fetch(baseUrl() + path, {
                method: "POST",
                credentials: "same-origin",
                signal: abort.signal,
                ...options,
            });
            if (response.status === 401) throw new RequestError("You are logged out. Reload the page.");
            if (!response.ok && !REFUSALS.includes(response.status))
                throw new RequestError(`The WebUI answered with error ${response.status}`, { offline: true });
            const reply = await response.json();
            if (reply.error) throw new RequestError(reply.error);
            return reply;
        } catch (error) {
            if (error instanceof RequestError) throw error;
            throw new RequestError("Lost contact with the WebUI", { offline: true, details: String(error) });
        } finally {
            clearTimeout(timer);
        }
    }

    async function request(action, args, timeoutS) {
        const body = JSON.stringify({ data: [JSON.stringify({ do: action, ...args })] });
        const response = await post("run/tinv", { headers: { "Content-Type": "application/json" }, body }, timeoutS);
        const reply = JSON.parse(response.data[0]);
        if (reply && reply.error) throw new RequestError(reply.error, { details: reply.details });
        if (reply && reply.problems && action !== "check") {
            throw new RequestError(reply.problems.map((p) => p.message).join("; "), { problems: reply.problems });
        }
        return reply;
    }

    /** Calls an action of Python. Calls in the same `queue` wait for each other. Throws RequestError. */
    tinv.call = (action, args = {}, { queue = null, timeoutS = 60 } = {}) => {
        if (!queue) return request(action, args, timeoutS);
        const previous = queues[queue] || Promise.resolve();
        queues[queue] = previous.catch(() => {}).then(() => request(action, args, timeoutS));
        return queues[queue];
    };

    /** Uploads a file; returns the path that the action `add` takes. */
    tinv.uploadFile = async (file) => {
        const body = new FormData();
        body.append("files", file, file.name);
        return (await post("upload?for=tinv", { body }, 600))[0];
    };

    /** Repeats a request while nobody answers, with growing pauses. `onOffline` is called after each such attempt. */
    tinv.retryWhileOffline = async (send, onOffline = () => {}) => {
        for (let pauseS = 1; ; pauseS = Math.min(15, pauseS * 2)) {
            try {
                return await send();
            } catch (error) {
                if (!error.offline) throw error;
                onOffline(error);
                await new Promise((resolve) => setTimeout(resolve, pauseS * 1000));
            }
        }
    };
})();
