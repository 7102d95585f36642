// What is wrong with a request: all of it at once, each at its field, the first one focused.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const PLACES = { images: "tinv_images", model: "tinv_checkpoint", preset: "tinv_preset" };

    let refused = []; // the problems of the last click on Train, with what their fields held

    const wrapper = (option) => {
        const field = option && tinv.form.field(option);
        return tinv.byId(field ? field.id : PLACES[option] || `tinv_${option}`);
    };
    const inputs = (place) => (place ? [...place.querySelectorAll("input, textarea, select")] : []);

    function focus(option) {
        const place = wrapper(option);
        if (!place) return;
        if (place.closest("#tinv_advanced")) {
            const search = tinv.byId("tinv_search");
            if (search.value) {
                search.value = "";
                search.dispatchEvent(new Event("input"));
            }
            tinv.openAdvanced();
        }
        const target = inputs(place)[0] || place;
        setTimeout(() => {
            target.focus({ preventScroll: true });
            tinv.scrollTo(place, "center");
        }, 60);
    }

    function valueOf(option) {
        const { values } = tinv.form;
        if (option === "images") return tinv.pictures.count;
        if (option === "name") return `${values.name} ${values.overwrite}`;
        if (option === "model")
            return (document.querySelector("#tinv_checkpoint .tinv-checkpoint-title") || {}).textContent;
        return values[option];
    }

    /** Messages under the fields they are about. What Train was refused for stays until its field holds something else. */
    function atFields(problems, nameIsFree = false) {
        const known = new Set(problems.map(({ option }) => option));
        const before = refused.length;
        refused = refused.filter(
            ({ option, value }) => value === valueOf(option) && !(option === "name" && nameIsFree),
        );
        if (before && !refused.length) tinv.byId("tinv_problems").replaceChildren();
        else if (before > refused.length) list(refused);
        draw([...problems, ...refused.filter(({ option }) => !known.has(option))]);
    }

    function draw(problems) {
        const wanted = new Map();
        for (const { option, message } of problems) wanted.set(option, [...(wanted.get(option) || []), message]);
        for (const old of document.querySelectorAll(".tinv-field-error[data-option]")) {
            if (wanted.has(old.dataset.option)) continue;
            for (const input of inputs(wrapper(old.dataset.option))) {
                input.removeAttribute("aria-invalid");
                input.removeAttribute("aria-describedby");
            }
            old.remove();
        }
        const nameNote = tinv.byId("tinv_name_note");
        if (wanted.has("name") && !nameNote.querySelector("button")) nameNote.replaceChildren(); // it would say it twice
        for (const [option, messages] of wanted) {
            const place = wrapper(option);
            if (!place) continue;
            const id = `tinv_problem_${option}`;
            let note = tinv.byId(id);
            if (!note) {
                note = tinv.h("div.tinv-field-error", { id, "data-option": option });
                place.append(note);
            }
            const text = messages.map(tinv.sentence).join(" ");
            if (note.textContent !== text) note.textContent = text;
            for (const input of inputs(place)) {
                input.setAttribute("aria-invalid", "true");
                input.setAttribute("aria-describedby", id);
            }
        }
    }

    const name = (option) => {
        const field = tinv.form.field(option);
        return field ? field.label : { images: "Pictures", model: "Checkpoint" }[option] || "";
    };

    function list(problems) {
        const items = problems.map(({ option, message }) => {
            const label = name(option);
            const text = tinv.sentence(message);
            const go = label && tinv.h("button.tinv-link", { onclick: () => focus(option) }, label);
            return tinv.h("li", {}, go || null, go ? ": " : null, text);
        });
        const head = problems.length === 1 ? "One thing to put right first:" : "A few things to put right first:";
        tinv.byId("tinv_problems").replaceChildren(
            tinv.h("div.tinv-card.tinv-bad", {}, tinv.h("strong", {}, head), tinv.h("ul", {}, ...items)),
        );
    }

    tinv.problems = {
        atFields,
        focus,

        /** All problems of a refused training: listed beside Train, shown at their fields, the first focused. */
        show(problems) {
            refused = problems.map((problem) => ({ ...problem, value: valueOf(problem.option) }));
            draw(problems);
            list(problems);
            const first = problems.find(({ option }) => wrapper(option));
            if (first) focus(first.option);
        },

        /** An error that is not about the form: what happened, what to do, and the details for whoever is asked for help. */
        error(failure, todo) {
            const card = tinv.errorCard(
                failure.message,
                todo ||
                    (failure.offline
                        ? "See whether the WebUI is still running, then try again."
                        : "Try again; if it stays, ask for help with the details."),
                failure.details || failure.message,
            );
            tinv.byId("tinv_problems").replaceChildren(card);
        },
        clear() {
            refused = [];
            tinv.byId("tinv_problems").replaceChildren();
        },
    };

    tinv.errorCard = (what, todo, details, ...more) => {
        const copied = tinv.h("span.tinv-hint", { role: "status" });
        const copy = async () => {
            copied.textContent = (await tinv.copy(details)) ? "Copied" : "Not possible here; select the text below";
            if (copied.textContent !== "Copied") copied.after(tinv.h("pre.tinv-log", { tabindex: "0" }, details));
        };
        return tinv.h(
            "div.tinv-card.tinv-bad",
            {},
            tinv.h("strong", {}, tinv.sentence(what)),
            tinv.h("p", {}, todo),
            tinv.h(
                "div.tinv-row",
                {},
                ...more,
                tinv.h("button.tinv-button", { onclick: copy }, "Copy details"),
                copied,
            ),
        );
    };

    tinv.copy = async (text) => {
        try {
            await navigator.clipboard.writeText(text);
            return true;
        } catch {
            // not a secure page: the old way
            const area = tinv.h("textarea.tinv-unseen", {}, text);
            document.body.append(area);
            area.select();
            const done = document.execCommand("copy");
            area.remove();
            return done;
        }
    };
})();
