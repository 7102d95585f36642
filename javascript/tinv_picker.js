// The list of embeddings in txt2img and img2img: follows the folder, greys what does not fit, writes into the prompt.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, buttonById, h, setText } = tinv;
    const POLL_MS = 3000;
    const FRESH_MS = 6000; // for so long after the tab's own poll, none is needed here
    const LONGEST_PAUSE_MS = 60000;
    const GREATEST_STRENGTH = 1.5;
    const NOTHING_FOUND = "Nothing found";

    let embeddings = null; // from Python; null before the first reply
    let version = null; // of the list, as in the replies to polls
    let loading = null; // the promise of a request for the list
    let toldAt = -Infinity; // when the tab's poll last brought a version
    let failures = 0;
    let pausedUntil = 0;
    const chosen = {}; // by tab, the label chosen in the list
    const thumbnails = new Map(); // by name, promises; for the current version

    const embeddingOf = (label) => (embeddings || []).find((embedding) => embedding.label === label);
    const pickerOf = (tab) => byId(`${tab}_tinv_picker`);
    const misfitMessage = (embedding) => `${embedding.name} does not fit this checkpoint: ${embedding.reason}.`;
    const setNote = (tab, text) => setText(byId(`${tab}_tinv_note`), text);

    tinv.picker = { refresh, onLibraryVersion, choose, insert };

    // The list

    /** Loads the list, then has gradio update the dropdowns. Does nothing where Python does not answer. */
    function refresh() {
        loading ??= load()
            .then(() => {
                failures = 0;
                for (const tab of tinv.prompt.TABS) buttonById(`${tab}_tinv_refresh`)?.click();
            })
            .catch(pauseAfterFailure)
            .finally(() => {
                loading = null;
            });
        return loading;
    }

    async function load() {
        const reply = await tinv.call("embeddings", {}, { queue: "picker" });
        embeddings = reply.embeddings;
        version = reply.version;
        thumbnails.clear();
        for (const tab of tinv.prompt.TABS) drawChosen(tab);
    }

    function pauseAfterFailure() {
        failures += 1;
        pausedUntil = performance.now() + Math.min(LONGEST_PAUSE_MS, POLL_MS * 2 ** failures);
    }

    /** The tab passes on the list's version from each of its polls; without them, the picker polls itself. */
    function onLibraryVersion(newVersion) {
        toldAt = performance.now();
        if (newVersion !== version && toldAt >= pausedUntil) refresh();
    }

    async function poll() {
        const now = performance.now();
        const isOpen = (tab) => pickerOf(tab) && tinv.isVisible(tinv.prompt.field(tab, "prompt"));
        if (!tinv.prompt.TABS.some(isOpen) || document.hidden || now < pausedUntil || loading) return;
        if (version === null) {
            refresh();
            return;
        }
        if (now - toldAt < FRESH_MS) return;
        try {
            const reply = await tinv.call("poll", { run: null, after: 0 }, { timeoutS: 15 });
            failures = 0;
            onLibraryVersion(reply.library);
        } catch {
            pauseAfterFailure();
        } finally {
            toldAt = -Infinity; // that was this file's own poll
        }
    }

    /** Greys the options that do not fit, and gives all a thumbnail. gradio rebuilds the list each time it opens. */
    function decorateOptions(picker) {
        for (const list of picker.querySelectorAll("ul.options")) list.dataset.empty = NOTHING_FOUND;
        for (const option of picker.querySelectorAll("ul.options li, [role=option]")) {
            const label = option.getAttribute("aria-label") || option.textContent.replace("✓", "").trim();
            const embedding = embeddingOf(label);
            const isMisfit = Boolean(embedding && !embedding.fits);
            option.classList.toggle("tinv-misfit", isMisfit);
            if (embedding) addThumbnail(option, embedding);
        }
    }

    function addThumbnail(option, { name, preview }) {
        let frame = option.querySelector(".tinv-option-thumb");
        if (!frame) option.prepend((frame = h("span.tinv-option-thumb", { "aria-hidden": "true" })));
        if (frame.dataset.name === name) return;
        frame.dataset.name = name;
        frame.style.backgroundImage = "";
        if (preview) whenSeen.observe(frame);
    }

    const whenSeen = new IntersectionObserver((seen) => {
        for (const { target } of seen.filter((entry) => entry.isIntersecting)) {
            whenSeen.unobserve(target);
            showThumbnail(target);
        }
    });

    async function showThumbnail(frame) {
        const { name } = frame.dataset;
        const src = await thumbnailOf(name);
        if (src && frame.dataset.name === name) frame.style.backgroundImage = `url("${src}")`;
    }

    // The chosen embedding

    /** Called by the dropdown. */
    function choose(tab, label) {
        if (chosen[tab] === label) return;
        chosen[tab] = label;
        setNote(tab, "");
        drawChosen(tab);
    }

    async function drawChosen(tab) {
        const frame = byId(`${tab}_tinv_thumb`);
        if (!frame) return;
        const embedding = embeddingOf(chosen[tab]);
        const src = embedding && embedding.preview ? await thumbnailOf(embedding.name) : null;
        if (embeddingOf(chosen[tab]) !== embedding) return; // another was chosen meanwhile
        if (embedding && !embedding.fits) setNote(tab, misfitMessage(embedding));
        if (!src) frame.replaceChildren();
        else if (frame.firstChild?.src !== src) frame.replaceChildren(h("img", { src, alt: embedding.name }));
    }

    function thumbnailOf(name) {
        if (!thumbnails.has(name)) {
            const request = tinv.call("thumb", { name });
            thumbnails.set(
                name,
                request.then(
                    (reply) => reply.image,
                    () => null,
                ),
            );
        }
        return thumbnails.get(name);
    }

    /** Called by the buttons. `kind`: "prompt" or "neg_prompt". */
    function insert(tab, kind, label, strengthText) {
        const field = tinv.prompt.field(tab, kind);
        const embedding = embeddingOf(label);
        if (!label || (embeddings && !embedding)) return setNote(tab, "Choose an embedding first.");
        if (embedding && !embedding.fits) return setNote(tab, misfitMessage(embedding));
        const number = String(strengthText ?? "").trim().replace(",", ".") || "1";
        if (!/^\+?(\d+\.?\d*|\.\d+)$/.test(number) || Number(number) > GREATEST_STRENGTH)
            return setNote(tab, `Strength goes from 0 to ${GREATEST_STRENGTH}, for example 0.8.`);
        if (!field) return;
        const name = embedding ? embedding.name : label;
        const strength = Number(number);
        const promptName = kind === "prompt" ? "the prompt" : "the negative prompt";
        const { mentioned, changed } = tinv.prompt.insert(field, name, strength);
        if (!mentioned) setNote(tab, `Added ${name} to ${promptName}.`);
        else if (!changed) setNote(tab, `${name} is already in ${promptName}.`);
        else setNote(tab, `Changed the strength of ${name} in ${promptName} to ${strength}.`);
    }

    // Start-up

    const BUTTON_HELP = {
        refresh: "Refresh",
        insert: "Add the word to the prompt, at the cursor",
        insert_negative: "Add the word to the negative prompt, at the cursor",
    };
    const STRENGTH_HELP = `From 0 to ${GREATEST_STRENGTH}. 1 is as learned, less is weaker, more is stronger.`;

    const builtTabs = () => tinv.prompt.TABS.filter((tab) => pickerOf(tab) && buttonById(`${tab}_tinv_refresh`));

    tinv.ready(
        () => {
            for (const tab of builtTabs()) {
                for (const [name, help] of Object.entries(BUTTON_HELP)) {
                    const button = buttonById(`${tab}_tinv_${name}`);
                    if (button) button.title = help;
                }
                const strength = byId(`${tab}_tinv_strength`)?.querySelector("input, textarea");
                if (strength) strength.title = STRENGTH_HELP;
                const refreshButton = buttonById(`${tab}_tinv_refresh`);
                refreshButton.setAttribute("aria-label", BUTTON_HELP.refresh); // its text is a symbol
                refreshButton.addEventListener("click", (event) => event.isTrusted && load().catch(() => {}));
                const picker = pickerOf(tab);
                const options = { childList: true, subtree: true, characterData: true };
                new MutationObserver(() => decorateOptions(picker)).observe(picker, options);
            }
            poll();
            setInterval(poll, POLL_MS);
        },
        () => builtTabs().length > 0,
    );
})();
