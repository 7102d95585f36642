// What the training has to do with txt2img and img2img: trying the word there, and saying why Generate waits.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const TABS = ["txt2img", "img2img"];

    /** Bring a tab of the host to the front, wherever the user's settings have put it. */
    function select(id) {
        const panel = tinv.byId(id);
        if (!panel) return false;
        const named = tinv.byId(`${id}-button`);
        const panels = [...panel.parentElement.children].filter((child) => child.classList.contains("tabitem"));
        const nav = panel.parentElement.querySelector(":scope > .tab-nav, :scope > [role=tablist]");
        const button = named || (nav && nav.querySelectorAll("button")[panels.indexOf(panel)]);
        if (button) button.click();
        return Boolean(button);
    }

    const PROMPTS = { subject: (name) => `a photo of ${name}`, style: (name) => `a house in the style of ${name}` };

    function put(area, text) {
        area.value = text;
        area.dispatchEvent(new Event("input", { bubbles: true }));
        if (typeof window.updateInput === "function") window.updateInput(area);
    }

    /** The word in a prompt that shows it, Generate in focus; starting is the user's. */
    function tryIn(name, kind) {
        select("tab_txt2img");
        const negative = kind === "negative";
        const area = document.querySelector(
            negative
                ? "#txt2img_neg_prompt textarea, #txt2img_neg_prompt input"
                : "#txt2img_prompt textarea, #txt2img_prompt input",
        );
        if (!area) return;
        if (negative)
            put(
                area,
                area.value.split(/,\s*/).includes(name) ? area.value : [area.value, name].filter(Boolean).join(", "),
            );
        else put(area, PROMPTS[kind === "style" ? "style" : "subject"](name));
        const generate = tinv.byId("txt2img_generate");
        const button = generate && (generate.tagName === "BUTTON" ? generate : generate.querySelector("button"));
        if (button) focus(button);
    }

    /** gradio shows a tab a moment after it was clicked, and what is hidden takes no focus. */
    function focus(button, tries = 50) {
        button.focus();
        if (document.activeElement !== button && tries) setTimeout(() => focus(button, tries - 1), 10);
    }

    /** What shows embeddings looks again: our picker, the host's cards, tag completion. */
    function refreshHost() {
        if (tinv.refreshPickers) tinv.refreshPickers();
        const cards = tinv.byId("txt2img_textual_inversion_extra_refresh_internal");
        if (cards) cards.click();
        if (typeof window.refreshEmbeddings === "function") Promise.resolve(window.refreshEmbeddings()).catch(() => {});
    }

    function notices() {
        const lending = tinv.run.world.lending;
        for (const name of TABS) {
            const tab = tinv.byId(`tab_${name}`),
                id = `tinv_waits_${name}`;
            if (!tab) continue;
            let bar = tinv.byId(id);
            if (!lending) {
                if (bar) bar.remove();
                continue;
            }
            if (bar && bar.dataset.run === lending.run) continue;
            if (bar) bar.remove();
            const stop = tinv.h(
                "button.tinv-button",
                {
                    onclick: (event) => {
                        event.target.disabled = true;
                        event.target.textContent = "Stopping…";
                        tinv.actions.stop(lending.run);
                    },
                },
                "Stop training",
            );
            bar = tinv.h(
                "div.tinv-waits",
                { id, role: "status", "data-run": lending.run },
                tinv.h("span", {}, ...tinv.words("Generate waits: {} is being trained.", lending.name)),
                stop,
            );
            tab.prepend(bar);
        }
    }

    // The hosts count a prompt's tokens under the lock that generating takes. Each count asked for while a training holds
    // it would keep one of the server's few threads waiting, until none is left for anything: so they wait here instead.
    const COUNTERS = TABS.flatMap((name) => [`${name}_token_button`, `${name}_negative_token_button`]);
    const uncounted = new Set();

    function postpone(event) {
        const button = event.target.closest && event.target.closest("button");
        if (!button || !COUNTERS.includes(button.id) || !tinv.run.world.lending) return;
        event.stopImmediatePropagation();
        event.preventDefault();
        uncounted.add(button);
    }

    function count() {
        if (tinv.run.world.lending) return;
        for (const button of uncounted) button.click();
        uncounted.clear();
    }

    tinv.txt2img = { tryIn, refreshHost };
    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        tinv.on("run", notices);
        tinv.on("run", count);
        document.addEventListener("click", postpone, true);
        // not when only the checkpoint is another: the WebUI is loading it, and its cards cannot be read meanwhile
        tinv.on("library", (files) => files && refreshHost());
    });
})();
