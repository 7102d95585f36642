// "Share": says who made a word and what it may be used for, and exports it.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const REMEMBERED = ["author", "license"]; // the same for every word of an author
    const FIELDS = [
        ["description", "Description", "textarea", { rows: 3, maxlength: 2000, placeholder: "What the word shows, and how to use it" }],
        ["author", "Author", "input", { maxlength: 200 }],
        ["license", "Licence", "input", { maxlength: 200, list: "tinv_share_licenses", placeholder: "e.g. CC-BY-4.0" }],
    ];
    let dialog = null; // built when it is first opened
    let run = null;
    let name = "";

    tinv.share = { open };

    async function open(report) {
        if (!dialog) build();
        run = report.id;
        name = report.out_name || report.name;
        tinv.setText(byId("tinv_share_title"), `Share ${name}`);
        say("");
        dialog.showModal();
        await attempt(async () => {
            const reply = await tinv.call("about", { run });
            const remembered = tinv.storage.get("author", {});
            for (const [key] of FIELDS) field(key).value = reply.about[key] || remembered[key] || "";
            byId("tinv_share_licenses").replaceChildren(...reply.licenses.map((value) => h("option", { value })));
            const formats = Object.entries(reply.formats).map(([value, title]) => h("option", { value }, title));
            byId("tinv_share_format").replaceChildren(...formats);
        });
    }

    const field = (key) => byId(`tinv_share_${key}`);
    const say = (text, isError = false) => {
        const note = byId("tinv_share_note");
        note.classList.toggle("tinv-field-error", isError);
        tinv.setText(note, text);
    };

    /** Runs an action; what goes wrong is said in the dialog. */
    async function attempt(action, doing = "", done = "") {
        say(doing);
        try {
            await action();
            say(done);
        } catch (error) {
            const problems = (error.problems || []).map((problem) => `${problem.option} ${problem.message}`);
            say(tinv.format.sentence(problems.join("; ") || error.message), true);
        }
    }

    function about() {
        const texts = Object.fromEntries(FIELDS.map(([key]) => [key, field(key).value.trim()]));
        tinv.storage.set("author", Object.fromEntries(REMEMBERED.map((key) => [key, texts[key]])));
        return texts;
    }

    const save = async (action, args) => {
        const reply = await tinv.call(action, { run, ...args }, { timeoutS: 120 });
        const bytes = Uint8Array.from(atob(reply.data), (character) => character.charCodeAt(0));
        tinv.saveFile(new Blob([bytes]), reply.file);
    };
    const saveAll = () => attempt(() => save("share", { about: about() }), "Packing…", "Saved.");
    const saveFormat = () => attempt(() => save("export", { format: byId("tinv_share_format").value }), "", "Saved.");
    const describe = () =>
        attempt(() => tinv.call("describe", { run, about: about() }), "", `Written into the file of ${name}.`);

    function build() {
        const button = (id, label, onclick, classes = "") => h(`button.tinv-button${classes}`, { id, onclick }, label);
        const rows = FIELDS.map(([key, label, tag, attributes]) =>
            h("label", {}, h("span", {}, label), h(tag, { id: `tinv_share_${key}`, ...attributes })),
        );
        dialog = h(
            "dialog.tinv-share",
            { id: "tinv_share", "aria-labelledby": "tinv_share_title" },
            h(
                "div.tinv-viewer-head",
                {},
                h("strong", { id: "tinv_share_title" }),
                h(
                    "button.tinv-button",
                    { onclick: () => dialog.close(), "aria-label": "Close", title: "Close (Esc)" },
                    tinv.icon("cross"),
                ),
            ),
            h("p.tinv-hint", {}, "All of this is optional. It travels inside the file, and WebUIs and model sites show it."),
            ...rows,
            h("datalist", { id: "tinv_share_licenses" }),
            h(
                "div.tinv-row",
                {},
                button("tinv_share_zip", "Download as zip", saveAll, ".tinv-primary"),
                button("tinv_share_describe", "Write into the file here", describe),
            ),
            h("p.tinv-hint", {}, "The zip holds the word in every format, example pictures with their prompts, and a note on its use."),
            h(
                "label",
                {},
                h("span", {}, "Only the word, for"),
                h("span.tinv-row", {}, h("select", { id: "tinv_share_format" }), button("tinv_share_export", "Download", saveFormat)),
            ),
            h("p.tinv-note", { id: "tinv_share_note", role: "status" }),
        );
        dialog.addEventListener("click", (event) => {
            if (event.target === dialog) dialog.close(); // beside it
        });
        document.body.append(dialog);
    }
})();
