// The core of the page's scripts: the namespace `tinv`, start-up, elements, storage, and events between the scripts.
// The hosts load javascript/*.js in alphabetical order, so this file comes first and the others use it while they load.
// What any other file defines is looked up on `tinv` only once the page runs.
(() => {
    "use strict";
    const tinv = (window.tinv = {});

    // Start-up

    const isTabBuilt = () => tinv.byId("tinv_schema") && tinv.byId("tinv_status");
    let waitingStarts = []; // [{start, isBuilt}], in the order of the scripts
    let startTimer = null;

    /** Calls `start` once the page holds what it needs: gradio builds the page late, and only after a login. */
    tinv.ready = (start, isBuilt = isTabBuilt) => {
        waitingStarts.push({ start, isBuilt });
        startTimer ??= setTimeout(startWhatIsBuilt);
    };

    function startWhatIsBuilt() {
        const built = document.readyState === "loading" ? [] : waitingStarts.filter(({ isBuilt }) => isBuilt());
        waitingStarts = waitingStarts.filter((waiting) => !built.includes(waiting));
        startTimer = waitingStarts.length ? setTimeout(startWhatIsBuilt, 100) : null;
        for (const { start } of built) callSafely(start);
    }

    /** An error in one part of the page must not stop the others. */
    function callSafely(callback, ...args) {
        try {
            callback(...args);
        } catch (error) {
            console.error("Textual Inversion:", error);
        }
    }

    // Events between the scripts
    //     run-followed (id)                  another run is shown, or none (null)
    //     run-updated ()                     something is new about the followed run or the server
    //     run-submitted ()                   Train has been accepted
    //     run-ended (report)                 the followed run has finished, stopped or failed
    //     step-used (id, step)               a step of a run has been made the embedding
    //     runs-changed ()                    the server's list of runs is another
    //     runs-listed ()                     that list has been loaded
    //     embeddings-changed (filesChanged)  other embeddings, or (false) the same with another checkpoint
    //     form-ready ()                      the form holds what this browser remembers
    //     form-changed (values)              fields have changed
    //     form-checked (reply)               Python has checked the fields
    //     pictures-changed ()                pictures or captions have changed
    //     own-pictures-loaded ()             the pictures of the followed run are there
    //     problems-changed ()                something else is said beside Train

    const listeners = {};
    tinv.on = (event, listener) => (listeners[event] = listeners[event] || []).push(listener);
    tinv.emit = (event, ...details) => {
        for (const listener of listeners[event] || []) callSafely(listener, ...details);
    };

    // Elements

    tinv.byId = (id) => document.getElementById(id);

    /** A button by its id; some gradio versions put the id on a wrapper. */
    tinv.buttonById = (id) => {
        const element = tinv.byId(id);
        return element && (element.matches("button") ? element : element.querySelector("button"));
    };

    /** Creates an element: h("button.tinv-link", { onclick }, "text", node). Strings become text, never HTML. */
    tinv.h = (selector, properties = {}, ...children) => {
        const [tag, ...classes] = selector.split(".");
        const element = document.createElement(tag);
        element.classList.add(...classes);
        for (const [key, value] of Object.entries(properties)) {
            if (value === null || value === undefined) continue;
            if (typeof value === "function" || (key in element && typeof value === "boolean")) element[key] = value;
            else element.setAttribute(key, value);
        }
        element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
        if (tag === "button" && !element.hasAttribute("type")) element.type = "button";
        return element;
    };

    /** A symbol that says nothing by itself: check, cross, bang, ring, up, down, left, right. */
    tinv.icon = (name) => tinv.h(`span.tinv-icon.tinv-icon-${name}`, { "aria-hidden": "true" });

    /** "Step {} of {}" with its values in spans, so that a host's translation finds the words around them. */
    tinv.phrase = (pattern, ...values) =>
        pattern
            .split(/(\{\})/)
            .filter(Boolean)
            .map((part) => (part === "{}" ? tinv.h("span.tinv-value", {}, String(values.shift())) : part));

    /** Sets an element's text, unless it is the same already: a screen reader would read it again. */
    tinv.setText = (element, text) => {
        if (element && element.textContent !== text) element.textContent = text;
    };

    /** Replaces an element's content, unless it is the same already. Buttons are always new: their handlers differ. */
    tinv.setContent = (element, ...children) => {
        const content = tinv.h("div", {}, ...children);
        if (element.innerHTML !== content.innerHTML || content.querySelector("button, a, img"))
            element.replaceChildren(...content.childNodes);
    };

    /** Hides an element, or shows it again. It stays hidden for as long as any reason is left. */
    tinv.setHidden = (element, hidden, reason = "unavailable") => {
        const reasons = new Set((element.dataset.hiddenBy || "").split(" ").filter(Boolean));
        if (hidden) reasons.add(reason);
        else reasons.delete(reason);
        element.dataset.hiddenBy = [...reasons].join(" ");
        element.classList.toggle("tinv-hidden", reasons.size > 0);
    };

    /** Whether an element is laid out: false where the tab or a part around it is closed. */
    tinv.isVisible = (element) => Boolean(element && element.offsetParent !== null);

    tinv.scrollTo = (element, block) => {
        const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
        element.scrollIntoView({ block, behavior: reducedMotion ? "auto" : "smooth" });
    };

    /** Has a screen reader say something once it has finished its sentence. */
    tinv.announce = (text) => tinv.setText(tinv.byId("tinv_announce"), text);

    /** A button that asks before it does something that cannot be undone. */
    tinv.confirmButton = (label, question, confirmLabel, action) => {
        const wrapper = tinv.h("span.tinv-confirm");
        const ask = () => {
            const keep = tinv.h("button.tinv-button", { onclick: cancel }, "Keep");
            wrapper.replaceChildren(
                tinv.h("span", {}, question),
                tinv.h("button.tinv-button.tinv-danger", { onclick: action }, confirmLabel),
                keep,
            );
            keep.focus();
        };
        const reset = () => wrapper.replaceChildren(tinv.h("button.tinv-button", { onclick: ask }, label));
        const cancel = () => {
            reset();
            wrapper.querySelector("button").focus();
        };
        reset();
        return wrapper;
    };

    /** Has the browser download data as a file. */
    tinv.saveFile = (blob, name) => {
        const link = tinv.h("a", { href: URL.createObjectURL(blob), download: name });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    };

    // Storage

    const STORAGE_PREFIX = "tinv.";

    /**
     * Values that this browser keeps between visits; none where its storage is blocked or full. Each window has its
     * own, which a reload finds again; a new window starts with what was stored last in any.
     */
    tinv.storage = {
        get(key, fallback) {
            try {
                const ofWindow = sessionStorage.getItem(STORAGE_PREFIX + key);
                const json = ofWindow === null ? localStorage.getItem(STORAGE_PREFIX + key) : ofWindow;
                return json === null ? fallback : JSON.parse(json);
            } catch {
                return fallback;
            }
        },
        set(key, value) {
            for (const name of ["sessionStorage", "localStorage"]) {
                try {
                    window[name].setItem(STORAGE_PREFIX + key, JSON.stringify(value));
                } catch {
                    // the page works without it
                }
            }
        },
    };

    /** 128 random bits as hexadecimal digits. */
    tinv.randomHex = () =>
        Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
})();
