// Pages that Python writes, the report of a training and the comparison of several, inside this page. They cannot run
// scripts or load anything from elsewhere.
(() => {
    "use strict";
    const { tinv } = window;
    const { h } = tinv;
    const POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
    let dialog = null; // built when it is first opened
    let title, frame, note, html;

    tinv.report = { open };

    /** Shows the page in the reply of an action. `fileName`: what its download is called. */
    async function open(heading, fileName, action, args) {
        if (!dialog) build();
        html = "";
        title.textContent = heading;
        note.textContent = "Writing…";
        frame.replaceChildren();
        dialog.dataset.file = fileName;
        dialog.showModal();
        try {
            html = (await tinv.call(action, args, { timeoutS: 120 })).html;
            const srcdoc = `<meta http-equiv="Content-Security-Policy" content="${POLICY}">${inTheme(html)}`;
            const attributes = { sandbox: "", referrerpolicy: "no-referrer", title: heading, srcdoc };
            frame.replaceChildren(h("iframe", attributes)); // a new one: an old one may still be loading something else
            note.textContent = "";
        } catch (error) {
            note.textContent = tinv.format.sentence(error.message);
        }
    }

    /** The page in this page's theme, which need not be that of the system. */
    function inTheme(page) {
        const isDark = Boolean(document.querySelector(".dark"));
        return page.replaceAll("(prefers-color-scheme: dark)", isDark ? "all" : "not all");
    }

    function build() {
        const button = (text, onclick, properties = {}) => h("button.tinv-button", { ...properties, onclick }, text);
        title = h("strong", { id: "tinv_report_title" });
        note = h("span.tinv-hint", { role: "status" });
        frame = h("div.tinv-report-frame");
        dialog = h(
            "dialog.tinv-report",
            { id: "tinv_report", "aria-labelledby": title.id },
            h(
                "div.tinv-viewer-head",
                {},
                h("div.tinv-row", {}, title, note),
                h(
                    "div.tinv-row",
                    {},
                    button("Download", download),
                    button(tinv.icon("cross"), () => dialog.close(), { "aria-label": "Close", title: "Close (Esc)" }),
                ),
            ),
            frame,
        );
        dialog.addEventListener("click", (event) => {
            if (event.target === dialog) dialog.close(); // beside it
        });
        document.body.append(dialog);
    }

    function download() {
        if (html) tinv.saveFile(new Blob([html], { type: "text/html" }), dialog.dataset.file);
    }
})();
