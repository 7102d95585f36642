// Writes embeddings into the prompts of txt2img and img2img: once each, at the cursor, with a strength.
(() => {
    "use strict";
    const { tinv } = window;
    const TABS = ["txt2img", "img2img"];
    const KINDS = ["prompt", "neg_prompt"];
    const lastCarets = new WeakMap(); // by field: {position, text}, where the cursor was and in which text

    tinv.prompt = {
        TABS,
        field: (tab, kind) => document.querySelector(`#${tab}_${kind} textarea, #${tab}_${kind} input`),
        write,
        escapeName,
        mentions: (text, name) => findMentions(text, escapeName(name)).length > 0,

        /** Puts an embedding at the cursor, or changes its strength where the prompt has it already. */
        insert(field, name, strength) {
            const { text, caret, mentioned } = withEmbedding(field.value, caretOf(field), name, strength);
            const changed = text !== field.value;
            if (changed) write(field, text, caret);
            return { mentioned, changed };
        },

        /** Puts an embedding at the end of a prompt. */
        append(field, name) {
            const { text } = insertAt(field.value, field.value.length, escapeName(name));
            write(field, text);
        },
    };

    /** Sets a prompt as if it had been typed. */
    function write(field, text, caret = text.length) {
        field.value = text;
        if (typeof window.updateInput === "function") window.updateInput(field); // the hosts' own way
        else field.dispatchEvent(new Event("input", { bubbles: true }));
        field.selectionStart = field.selectionEnd = caret;
        lastCarets.set(field, { position: caret, text });
    }

    function caretOf(field) {
        const last = lastCarets.get(field);
        return last && last.text === field.value ? last.position : field.value.length;
    }

    function rememberCaret(event) {
        const field = event.composedPath()[0];
        if (TABS.some((tab) => KINDS.some((kind) => field === tinv.prompt.field(tab, kind))))
            lastCarets.set(field, { position: field.selectionStart, text: field.value });
    }
    for (const event of ["focusout", "keyup", "click"]) document.addEventListener(event, rememberCaret, true);

    // Texts

    /** A name in the syntax of prompts, where brackets stand for weights. */
    function escapeName(name) {
        return name.replace(/[\\()[\]]/g, "\\$&");
    }

    /** A prompt that names the embedding once, and the new position of the cursor, where a new name goes. */
    function withEmbedding(text, caret, name, strength) {
        const word = escapeName(name);
        const weighted = strength === 1 ? word : `(${word}:${tinv.format.strength(strength)})`;
        const ranges = findMentions(text, word);
        if (!ranges.length) return { ...insertAt(text, caret, weighted), mentioned: false };
        for (const [start, end] of ranges.reverse()) {
            const [outerStart, outerEnd] = includeBrackets(text, start, end);
            text = text.slice(0, outerStart) + weighted + text.slice(outerEnd);
            caret = outerStart + weighted.length;
        }
        return { text, caret, mentioned: true };
    }

    const isWordCharacter = (character) => character !== undefined && /[\p{L}\p{N}_-]/u.test(character);

    /** The ranges [start, end] of a word that stands by itself: "cat" is not in "category", nor in <lora:cat:1>. */
    function findMentions(text, word) {
        const pattern = new RegExp(word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
        const ranges = [];
        for (const match of text.matchAll(pattern)) {
            const [start, end] = [match.index, match.index + match[0].length];
            const continuesLeft = isWordCharacter(word[0]) && isWordCharacter(text[start - 1]);
            const continuesRight = isWordCharacter(word[word.length - 1]) && isWordCharacter(text[end]);
            const inTag = text.lastIndexOf("<", start) > text.lastIndexOf(">", start) && text.indexOf(">", end) >= 0;
            if (!continuesLeft && !continuesRight && !inTag) ranges.push([start, end]);
        }
        return ranges;
    }

    /** Extends a word's range by the brackets that hold nothing else: (word:1.2), ((word)), [word]. */
    function includeBrackets(text, start, end) {
        for (;;) {
            const closing = { "(": /^(\s*:\s*[+-]?[.\d]+\s*)?\)/, "[": /^\]/ }[text[start - 1]];
            const match = closing && !isEscaped(text, start - 1) && closing.exec(text.slice(end));
            if (!match) return [start, end];
            start -= 1;
            end += match[0].length;
        }
    }

    function isEscaped(text, position) {
        let backslashes = 0;
        while (text[position - 1 - backslashes] === "\\") backslashes += 1;
        return backslashes % 2 === 1;
    }

    /** Inserts with the separators that people would type: a comma after a phrase, a space within one. */
    function insertAt(text, position, word) {
        while (isWordCharacter(text[position - 1]) && isWordCharacter(text[position])) position += 1; // to a word's end
        const left = text.slice(0, position);
        const right = text.slice(position);
        const atPhraseEnd = /^\s*($|,|\n|\))/.test(right);
        let before = "";
        if (left && !/[\s(<[:|]$/.test(left)) before = /,$/.test(left) || !atPhraseEnd ? " " : ", ";
        const after = !right || /^[\s,.)\]:|]/.test(right) ? "" : " ";
        return { text: left + before + word + after + right, caret: (left + before + word).length };
    }
})();
