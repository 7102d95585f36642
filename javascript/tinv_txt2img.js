// What a training has to do with txt2img and img2img: trying the word there, and saying why Generate waits.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, buttonById, h } = tinv;
    const FOCUS_ATTEMPTS = 50;
    const PROMPTS = { subject: (word) => `a photo of ${word}`, style: (word) => `a house in the style of ${word}` };

    tinv.txt2img = { tryWord, refreshHost, openTab };

    // Trying the word

    /** Opens a tab of the host, wherever the user's settings have put it. */
    function openTab(id) {
        const panel = byId(id);
        if (!panel) return;
        const panels = [...panel.parentElement.children].filter((child) => child.classList.contains("tabitem"));
        const tabs = panel.parentElement.querySelector(":scope > .tab-nav, :scope > [role=tablist]");
        const button = byId(`${id}-button`) || (tabs && tabs.querySelectorAll("button")[panels.indexOf(panel)]);
        if (button) button.click();
    }

    /** Writes a prompt that shows the word, and focuses Generate; pressing it is left to the user. */
    function tryWord(name, kind) {
        openTab("tab_txt2img");
        const isNegative = kind === "negative";
        const field = tinv.prompt.field("txt2img", isNegative ? "neg_prompt" : "prompt");
        if (!field) return;
        if (!isNegative) {
            const prompt = PROMPTS[kind === "style" ? "style" : "subject"];
            tinv.prompt.write(field, prompt(tinv.prompt.escapeName(name)));
        } else if (!tinv.prompt.mentions(field.value, name)) tinv.prompt.append(field, name);
        const generate = buttonById("txt2img_generate");
        if (generate) focusWhenShown(generate);
    }

    /** gradio shows a tab a moment after the click, and what is hidden takes no focus. */
    function focusWhenShown(button, attempts = FOCUS_ATTEMPTS) {
        button.focus();
        if (document.activeElement !== button && attempts) setTimeout(() => focusWhenShown(button, attempts - 1), 10);
    }

    /** Has everything that lists embeddings look again: the picker, the host's cards, tag completion. */
    function refreshHost() {
        tinv.picker.refresh();
        const refreshCards = byId("txt2img_textual_inversion_extra_refresh_internal");
        if (refreshCards) refreshCards.click();
        if (typeof window.refreshEmbeddings === "function") Promise.resolve(window.refreshEmbeddings()).catch(() => {});
    }

    // While the training has the GPU

    /** `lending`: {run, name}, or null: what the host has lent its device to; no run: the search for start words. */
    function drawWaitingBars() {
        const { lending } = tinv.run.serverStatus;
        for (const name of tinv.prompt.TABS) {
            const tab = byId(`tab_${name}`);
            const id = `tinv_waits_${name}`;
            const bar = byId(id);
            if (!tab || (bar && lending && bar.dataset.run === String(lending.run))) continue;
            if (bar) bar.remove();
            if (lending) tab.prepend(waitingBar(id, lending));
        }
    }

    function waitingBar(id, { run, name }) {
        const isSearch = name === "start words";
        const work = isSearch ? "the search for start words finishes" : "the pictures of a word are made";
        const stop = (event) => {
            event.target.disabled = true;
            event.target.textContent = "Stopping…";
            if (run) tinv.actions.stop(run);
            else if (isSearch) tinv.suggest.cancel();
            else tinv.call("cancel_try");
        };
        const text = run
            ? tinv.phrase("Generate will wait until {} finishes training.", name)
            : [`Generate will wait until ${work}.`];
        return h(
            "div.tinv-waiting-bar",
            { id, role: "status", "data-run": run },
            h("span", {}, ...text),
            h("button.tinv-button", { onclick: stop }, run ? "Stop training" : "Cancel"),
        );
    }

    // The hosts count a prompt's tokens under the lock that generating takes. While a training holds it, each request
    // would block one of the server's few threads, until none is left for anything: so the requests wait here.
    const isTokenButton = ({ id }) => /^(txt2img|img2img)_(negative_)?token_button$/.test(id);
    const postponedButtons = new Set();

    function postponeTokenCount(event) {
        const button = event.target.closest && event.target.closest("button");
        if (!button || !isTokenButton(button) || !tinv.run.serverStatus.lending) return;
        event.stopImmediatePropagation();
        event.preventDefault();
        postponedButtons.add(button);
    }

    function countPostponedTokens() {
        if (tinv.run.serverStatus.lending) return;
        for (const button of postponedButtons) button.click();
        postponedButtons.clear();
    }

    tinv.ready(() => {
        tinv.on("run-updated", drawWaitingBars);
        tinv.on("run-updated", countPostponedTokens);
        document.addEventListener("click", postponeTokenCount, true);
        // not when only the checkpoint is another: the WebUI is loading it, and its cards cannot be read meanwhile
        tinv.on("embeddings-changed", (filesChanged) => filesChanged && refreshHost());
    });
})();
