// What is wrong with a request: all of it at once, each problem at its field, the first one focused.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const ELEMENT_IDS = { images: "tinv_images", model: "tinv_checkpoint", preset: "tinv_preset" }; // without a field
    const LABELS = { images: "Pictures", model: "Checkpoint" };

    let rejected = []; // the problems of the last click on Train: [{option, message, value}]

    tinv.problems = {
        /** Whether anything is said beside Train. */
        get any() {
            return Boolean(byId("tinv_problems").firstChild);
        },

        /** Shows the problems that a check has found. Those of the last click on Train stay while their field does. */
        showAtFields(problems, nameIsFree, missing = []) {
            const options = new Set(problems.map(({ option }) => option));
            const stillMissing = new Set(missing.map(({ option }) => option));
            const isCurrent = ({ option, value }) =>
                stillMissing.has(option) || (value === valueOf(option) && !(option === "name" && nameIsFree));
            const current = rejected.filter(isCurrent);
            if (current.length < rejected.length) drawSummary(current);
            rejected = current;
            drawFieldErrors([...problems, ...rejected.filter(({ option }) => !options.has(option))]);
        },

        /** Shows why Train was rejected: listed beside Train and at the fields, the first of which is focused. */
        show(problems) {
            rejected = problems.map((problem) => ({ ...problem, value: valueOf(problem.option) }));
            drawFieldErrors(problems);
            drawSummary(problems);
            const first = problems.find(({ option }) => elementOf(option));
            if (first) focusField(first.option);
        },

        /** Shows an error that is not about the form: what happened, what to do, and details for a report. */
        showError(error, advice) {
            const defaultAdvice = error.offline
                ? "Check that the WebUI is running, then try again."
                : "Try again. If it keeps failing, copy the details and ask for help.";
            const card = errorCard(error.message, advice || defaultAdvice, error.details || error.message);
            say(card);
        },

        clear() {
            rejected = [];
            say();
        },

        errorCard,
        focus: focusField,
    };

    // The fields

    function elementOf(option) {
        const field = option && tinv.form.field(option);
        return byId(field ? field.id : ELEMENT_IDS[option] || `tinv_${option}`);
    }

    function inputsOf(option) {
        const element = elementOf(option);
        return element ? [...element.querySelectorAll("input, textarea, select")] : [];
    }

    function labelOf(option) {
        const field = tinv.form.field(option);
        return field ? field.label : LABELS[option] || "";
    }

    /** What a problem depends on: it is outdated once this differs. */
    function valueOf(option) {
        const { values } = tinv.form;
        if (option === "images") return tinv.pictures.count;
        if (option === "name") return `${values.name} ${values.overwrite}`;
        if (option === "model")
            return (document.querySelector("#tinv_checkpoint .tinv-checkpoint-title") || {}).textContent;
        return values[option];
    }

    function focusField(option) {
        const element = elementOf(option);
        if (!element) return;
        if (element.closest("#tinv_advanced")) {
            clearSearch();
            tinv.openAdvanced();
        }
        const target = inputsOf(option)[0] || element;
        setTimeout(() => {
            target.focus({ preventScroll: true });
            tinv.scrollTo(element, "center");
        }, 60); // gradio unfolds Advanced first
    }

    function clearSearch() {
        const search = byId("tinv_search");
        if (!search.value) return;
        search.value = "";
        search.dispatchEvent(new Event("input"));
    }

    function drawFieldErrors(problems) {
        const messages = new Map(); // by option
        for (const { option, message } of problems)
            messages.set(option, [...(messages.get(option) || []), tinv.format.sentence(message)]);
        for (const note of document.querySelectorAll(".tinv-field-error[data-option]"))
            if (!messages.has(note.dataset.option)) removeFieldError(note);
        const nameNote = byId("tinv_name_note");
        if (messages.has("name") && !nameNote.querySelector("button")) nameNote.replaceChildren(); // it says the same
        for (const [option, sentences] of messages) drawFieldError(option, sentences.join(" "));
    }

    function drawFieldError(option, text) {
        const element = elementOf(option);
        if (!element) return;
        const id = `tinv_problem_${option}`;
        let note = byId(id);
        if (!note) {
            note = h("div.tinv-field-error", { id, "data-option": option });
            element.append(note);
        }
        tinv.setText(note, text);
        for (const input of inputsOf(option)) {
            input.setAttribute("aria-invalid", "true");
            input.setAttribute("aria-describedby", id);
        }
    }

    function removeFieldError(note) {
        for (const input of inputsOf(note.dataset.option)) {
            input.removeAttribute("aria-invalid");
            input.removeAttribute("aria-describedby");
        }
        note.remove();
    }

    // Beside Train

    function drawSummary(problems) {
        if (!problems.length) return say();
        const items = problems.map(({ option, message }) => {
            const label = labelOf(option);
            const link = label ? [h("button.tinv-link", { onclick: () => focusField(option) }, label), ": "] : [];
            return h("li", {}, ...link, tinv.format.sentence(message));
        });
        const heading = problems.length === 1 ? "Fix this first:" : "Fix these first:";
        say(
            h("div.tinv-card.tinv-bad", {}, h("strong", {}, heading), h("ul", {}, ...items)),
        );
    }

    function say(...content) {
        byId("tinv_problems").replaceChildren(...content);
        tinv.emit("problems-changed");
    }

    function errorCard(whatHappened, advice, details, ...buttons) {
        const outcome = h("span.tinv-hint", { role: "status" });
        const copy = async () => {
            const isCopied = await copyToClipboard(details);
            outcome.textContent = isCopied ? "Copied" : "Select the text below and copy it";
            if (!isCopied) outcome.after(h("pre.tinv-log", { tabindex: "0" }, details));
        };
        return h(
            "div.tinv-card.tinv-bad",
            {},
            h("strong", {}, tinv.format.sentence(whatHappened)),
            h("p", {}, advice),
            h("div.tinv-row", {}, ...buttons, h("button.tinv-button", { onclick: copy }, "Copy details"), outcome),
        );
    }

    async function copyToClipboard(text) {
        try {
            await navigator.clipboard.writeText(text);
            return true;
        } catch {
            // not a secure page, so without the clipboard API
            const area = h("textarea.tinv-visually-hidden", {}, text);
            byId("tinv_run").append(area);
            area.select();
            const isCopied = document.execCommand("copy");
            area.remove();
            return isCopied;
        }
    }
})();
