// What the other scripts of the Textual Inversion tab share: elements, words, memory, messages between them.
// Hosts load these files in an order of their own, so each only fills `window.tinv` and is started from here.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const PREFIX = "tinv.";

    tinv.byId = (id) => document.getElementById(id);

    /** An element: h("button.tinv-link", {onclick}, "text", node). Text is only ever text, never HTML. */
    tinv.h = (what, properties = {}, ...children) => {
        const [tag, ...classes] = what.split(".");
        const element = document.createElement(tag);
        element.classList.add(...classes);
        for (const [key, value] of Object.entries(properties || {})) {
            if (value === null || value === undefined) continue;
            if (typeof value === "function" || (key in element && typeof value === "boolean")) element[key] = value;
            else element.setAttribute(key, value);
        }
        element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
        if (tag === "button" && !element.hasAttribute("type")) element.type = "button";
        return element;
    };

    tinv.svg = (tag, attributes = {}, ...children) => {
        const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
        for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
        element.append(...children);
        return element;
    };

    /** "Step {} of {}" with its values in spans, so that a host's translation finds the words by themselves. */
    tinv.words = (pattern, ...values) =>
        pattern
            .split(/(\{\})/)
            .filter(Boolean)
            .map((part) => (part === "{}" ? tinv.h("span.tinv-value", {}, String(values.shift())) : part));

    /** Replaces what an element holds, unless it says the same already (a screen reader would repeat it). */
    tinv.fill = (element, ...children) => {
        const fresh = tinv.h("div", {}, ...children);
        if (element.innerHTML !== fresh.innerHTML || fresh.querySelector("button, a, img"))
            element.replaceChildren(...fresh.childNodes);
    };

    tinv.duration = (seconds) => {
        if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
        const minutes = Math.round(seconds / 60);
        return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
    };

    tinv.bytes = (count) => {
        const units = ["B", "kB", "MB", "GB", "TB"];
        const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, count)) / 3)));
        const shown = count / 1000 ** power;
        return `${shown >= 10 || power === 0 ? Math.round(shown) : shown.toFixed(1)} ${units[power]}`;
    };

    /** Of memory, which is counted in steps of 1024, as on the box of a card. */
    tinv.memorySize = (mb) => (mb < 1024 ? `${Math.round(mb)} MB` : `${(mb / 1024).toFixed(1)} GB`);

    tinv.sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

    tinv.randomHex = () =>
        Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

    /** What this browser remembers; where it may not, nothing is lost but the memory. */
    tinv.memory = {
        get(key, otherwise) {
            try {
                const text = localStorage.getItem(PREFIX + key);
                return text === null ? otherwise : JSON.parse(text);
            } catch {
                return otherwise;
            }
        },
        set(key, value) {
            try {
                localStorage.setItem(PREFIX + key, JSON.stringify(value));
            } catch {
                // a full or forbidden storage
            }
        },
    };

    const listeners = {};
    tinv.on = (event, listener) => (listeners[event] = listeners[event] || []).push(listener);
    tinv.emit = (event, ...details) => {
        for (const listener of listeners[event] || []) {
            try {
                listener(...details);
            } catch (error) {
                console.error("Textual Inversion:", error); // one part of the page must not stop the others
            }
        }
    };

    /** Something for screen readers to say once they are done with what they are saying. */
    tinv.announce = (text) => {
        const place = tinv.byId("tinv_announce");
        if (place && place.textContent !== text) place.textContent = text;
    };

    tinv.scrollTo = (element, block) => {
        const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
        element.scrollIntoView({ block, behavior: calm ? "auto" : "smooth" });
    };

    tinv.isShown = (element) => Boolean(element && element.offsetParent !== null);

    /** A button that turns into a question before it does something that cannot be undone. */
    tinv.confirmButton = (label, question, yes, action) => {
        const place = tinv.h("span.tinv-confirm");
        const ask = () => {
            const no = tinv.h(
                "button.tinv-button",
                {
                    onclick: () => {
                        rest();
                        place.querySelector("button").focus();
                    },
                },
                "Keep",
            );
            place.replaceChildren(
                tinv.h("span", {}, question),
                tinv.h("button.tinv-button.tinv-danger", { onclick: action }, yes),
                no,
            );
            no.focus();
        };
        const rest = () => place.replaceChildren(tinv.h("button.tinv-button", { onclick: ask }, label));
        rest();
        return place;
    };

    tinv.starters = tinv.starters || [];
    function start() {
        if (!tinv.byId("tinv_schema") || !tinv.byId("tinv_status")) return setTimeout(start, 100); // the page is being built
        for (const starter of tinv.starters) {
            try {
                starter();
            } catch (error) {
                console.error("Textual Inversion:", error);
            }
        }
        tinv.started = true;
    }
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else setTimeout(start);
})();
