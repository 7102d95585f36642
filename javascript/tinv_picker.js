// The list of embeddings in txt2img and img2img: follows the folder, greys what does not fit, writes into the prompt.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const TABS = ["txt2img", "img2img"];
    const TICK_MS = 3000;
    const SHARED_MS = 6000; // so long after another script's poll none of our own is needed

    let embeddings = null; // as Python told them; null: not yet
    let version = null;
    let loading = null;
    let heardAt = -Infinity;
    let failures = 0;
    let waitUntil = 0;
    const chosen = {}; // by tab, the label in the list
    const carets = new WeakMap(); // by textarea, where the cursor was last and in what text
    const thumbs = new Map(); // by name, for the version at hand

    const byId = (id) => document.getElementById(id);
    const known = (label) => (embeddings || []).find((embedding) => embedding.label === label);
    const field = (tab, which) => document.querySelector(`#${tab}_${which} textarea`);
    const button = (tab, what) => {
        const element = byId(`${tab}_tinv_${what}`);
        return element && (element.matches("button") ? element : element.querySelector("button"));
    };

    // The list

    async function load() {
        const reply = await tinv.call("embeddings", {}, { lane: "picker" });
        embeddings = reply.embeddings;
        version = reply.version;
        thumbs.clear();
        for (const tab of TABS) show(tab);
    }

    /** Read the list again, first what it says and then the dropdowns; quietly nothing where Python is away. */
    tinv.refreshPickers = () => {
        loading = loading || load()
            .then(() => {
                failures = 0;
                for (const tab of TABS) button(tab, "refresh")?.click();
            })
            .catch(() => {
                failures += 1;
                waitUntil = performance.now() + Math.min(60000, TICK_MS * 2 ** failures);
            })
            .finally(() => { loading = null; });
        return loading;
    };

    /** To be told with each poll what state the embeddings are in; polls of our own are for when nobody tells. */
    tinv.libraryChanged = (now) => {
        heardAt = performance.now();
        if (now !== version && heardAt >= waitUntil) tinv.refreshPickers();
    };

    async function tick() {
        const open = TABS.some((tab) => byId(`${tab}_tinv_picker`) && field(tab, "prompt")?.offsetParent);
        const now = performance.now();
        if (!open || document.hidden || now < waitUntil || loading || !tinv.call) return;
        if (version === null) return tinv.refreshPickers();
        if (now - heardAt < SHARED_MS) return;
        try {
            const reply = await tinv.call("poll", { run: null, after: 0, page: "txt2img" }, { seconds: 15 });
            failures = 0;
            tinv.libraryChanged(reply.library);
        } catch {
            failures += 1;
            waitUntil = performance.now() + Math.min(60000, TICK_MS * 2 ** failures);
        } finally {
            heardAt = -Infinity; // that was our own
        }
    }

    /** Options of what does not fit are grey, and can be chosen to read why. The list is made anew each time it opens. */
    function grey(picker) {
        for (const option of picker.querySelectorAll("ul.options li, [role=option]")) {
            const entry = known(option.getAttribute("aria-label") || option.textContent.replace("✓", "").trim());
            const misfit = Boolean(entry && !entry.fits);
            if (option.classList.contains("tinv-misfit") === misfit) continue;
            option.classList.toggle("tinv-misfit", misfit);
            option.style.opacity = misfit ? "0.5" : "";
        }
    }

    // What is chosen

    /** Called by the dropdown. */
    tinv.picked = (tab, label) => {
        if (chosen[tab] === label) return;
        chosen[tab] = label;
        note(tab, "");
        show(tab);
    };

    async function show(tab) {
        const place = byId(`${tab}_tinv_thumb`);
        if (!place) return;
        const entry = known(chosen[tab]);
        const image = entry && entry.preview ? await thumb(entry.name) : null;
        if (known(chosen[tab]) !== entry) return; // another was chosen meanwhile
        if (entry && !entry.fits) note(tab, refusal(entry));
        if (!image) return place.replaceChildren();
        if (place.firstChild?.src === image) return;
        const picture = document.createElement("img");
        picture.src = image;
        picture.alt = entry.name;
        place.replaceChildren(picture);
    }

    async function thumb(name) {
        if (!thumbs.has(name)) thumbs.set(name, tinv.call("thumb", { name }).then((reply) => reply.image, () => null));
        return thumbs.get(name);
    }

    function note(tab, text) {
        const place = byId(`${tab}_tinv_note`);
        if (place && place.textContent !== text) place.textContent = text;
    }

    const refusal = (entry) => `${entry.name} does not work with this checkpoint: ${entry.reason}.`;

    // Into the prompt

    /** Called by the buttons. `which`: "prompt" or "neg_prompt". */
    tinv.insert = (tab, which, label, strength) => {
        const textarea = field(tab, which);
        const entry = known(label);
        if (!label || (embeddings && !entry)) return note(tab, "Choose an embedding first.");
        if (entry && !entry.fits) return note(tab, refusal(entry));
        const typed = String(strength ?? "").trim().replace(",", ".") || "1";
        if (!/^[+-]?(\d+\.?\d*|\.\d+)$/.test(typed)) return note(tab, "The strength has to be a number such as 0.8.");
        if (!textarea) return;
        const name = entry ? entry.name : label;
        const where = which === "prompt" ? "the prompt" : "the negative prompt";
        const text = textarea.value;
        const { text: changed, caret, found } = tinv.withWord(text, caretIn(textarea), name, Number(typed));
        if (changed !== text) write(textarea, changed, caret);
        note(tab, !found ? `Added ${name} to ${where}.`
            : changed === text ? `${name} is already in ${where}.`
            : `${name} is already in ${where}; its strength is now ${Number(typed)}.`);
    };

    /** The prompt with a word in it once, and where the cursor goes. `at`: where the word goes if it is not there yet. */
    tinv.withWord = (text, at, name, strength) => {
        const word = name.replace(/[\\()[\]]/g, "\\$&");
        const whole = strength === 1 ? word : `(${word}:${plainNumber(strength)})`;
        const places = mentions(text, word);
        if (!places.length) return insertAt(text, at, whole);
        for (const [start, end] of places.reverse()) {
            const [from, to] = withBrackets(text, start, end);
            text = text.slice(0, from) + whole + text.slice(to);
            at = from + whole.length;
        }
        return { text, caret: at, found: true };
    };

    /** Without an exponent, which prompts do not know. */
    const plainNumber = (number) => (/e/.test(String(number)) ? number.toFixed(6) : String(number));

    const inWord = (character) => character !== undefined && /[\p{L}\p{N}_-]/u.test(character);

    /** Where a word stands by itself: "cat" is not in "category", nor in <lora:cat:1>. */
    function mentions(text, word) {
        const pattern = new RegExp(word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
        const found = [];
        for (const match of text.matchAll(pattern)) {
            const [start, end] = [match.index, match.index + match[0].length];
            const part = (inWord(word[0]) && inWord(text[start - 1])) || (inWord(word[word.length - 1]) && inWord(text[end]));
            const tagged = text.lastIndexOf("<", start) > text.lastIndexOf(">", start) && text.indexOf(">", end) >= 0;
            if (!part && !tagged) found.push([start, end]);
        }
        return found;
    }

    /** The word with the brackets that hold nothing else, (word:1.2), ((word)) or [word]. */
    function withBrackets(text, start, end) {
        for (;;) {
            const closing = { "(": /^(\s*:\s*[+-]?[.\d]+\s*)?\)/, "[": /^\]/ }[text[start - 1]];
            const rest = closing && !escaped(text, start - 1) && closing.exec(text.slice(end));
            if (!rest) return [start, end];
            start -= 1;
            end += rest[0].length;
        }
    }

    function escaped(text, at) {
        let slashes = 0;
        while (text[at - 1 - slashes] === "\\") slashes += 1;
        return slashes % 2 === 1;
    }

    /** Put in between with what people would type: a comma after a phrase, a space within one. */
    function insertAt(text, at, word) {
        while (inWord(text[at - 1]) && inWord(text[at])) at += 1; // not into the middle of a word
        const left = text.slice(0, at);
        const right = text.slice(at);
        const phraseEnds = /^\s*($|,|\n|\))/.test(right);
        let before = "";
        if (left && !/[\s(<[:|]$/.test(left)) before = /,$/.test(left) || !phraseEnds ? " " : ", ";
        const after = !right || /^[\s,.)\]:|]/.test(right) ? "" : " ";
        return { text: left + before + word + after + right, caret: (left + before + word).length, found: false };
    }

    function caretIn(textarea) {
        const last = carets.get(textarea);
        return last && last.text === textarea.value ? last.at : textarea.value.length;
    }

    function remember(event) {
        const textarea = event.composedPath()[0];
        if (TABS.some((tab) => textarea === field(tab, "prompt") || textarea === field(tab, "neg_prompt"))) {
            carets.set(textarea, { at: textarea.selectionStart, text: textarea.value });
        }
    }

    function write(textarea, text, caret) {
        textarea.value = text;
        if (typeof updateInput === "function") updateInput(textarea);
        else textarea.dispatchEvent(new Event("input", { bubbles: true }));
        textarea.selectionStart = textarea.selectionEnd = caret;
        carets.set(textarea, { at: caret, text });
    }

    // The start

    const HELP = {
        refresh: "Read the list of embeddings again",
        strength: "1: as learned. Less is weaker, more is stronger; 0 to 1.5 is useful.",
        insert: "Write the word into the prompt, where the cursor was last",
        insert_negative: "Write the word into the negative prompt, where the cursor was last",
    };

    function start() {
        const here = TABS.filter((tab) => byId(`${tab}_tinv_picker`) && button(tab, "refresh"));
        if (!here.length || !tinv.call) return setTimeout(start, 300); // the page is being built, or asks for a login
        for (const tab of here) {
            for (const [what, text] of Object.entries(HELP)) {
                const element = what === "strength" ? byId(`${tab}_tinv_strength`)?.querySelector("input, textarea") : button(tab, what);
                if (element) element.title = text;
            }
            button(tab, "refresh").setAttribute("aria-label", HELP.refresh); // its text is a picture
            button(tab, "refresh").addEventListener("click", (event) => event.isTrusted && load().catch(() => {}));
            const picker = byId(`${tab}_tinv_picker`);
            new MutationObserver(() => grey(picker)).observe(picker, { childList: true, subtree: true, characterData: true });
        }
        for (const event of ["focusout", "keyup", "click"]) document.addEventListener(event, remember, true);
        tick();
        setInterval(tick, TICK_MS);
    }
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else setTimeout(start);
})();
