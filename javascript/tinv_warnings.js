// The warnings of the followed run, under its status. They can be put out of sight, but not undone.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const MOST_SHOWN = 3;
    const hidden = new Set(); // keys of what was put out of sight
    let announced = new Set(); // messages of the followed run
    let showsAll = false;

    const keyOf = (message) => `${tinv.run.id} ${message}`;

    /** Every warning once, the newest first; before Python has reported of the run, those of the click on Train. */
    function messages() {
        const { report, history } = tinv.run;
        const all = report ? report.warnings : history.warnings.map((event) => event.message);
        return [...new Set(all.map(tinv.format.sentence))].reverse();
    }

    function item(message) {
        const hide = () => {
            hidden.add(keyOf(message));
            draw();
            byId("tinv_warnings").querySelector("button")?.focus();
        };
        const label = { "aria-label": `Hide: ${message}`, title: "Hide", onclick: hide };
        return h("li", {}, h("span", {}, message), h("button.tinv-hide", label, tinv.icon("cross")));
    }

    function draw() {
        const all = messages();
        const shown = all.filter((message) => !hidden.has(keyOf(message)));
        const listed = showsAll ? shown : shown.slice(0, MOST_SHOWN);
        const link = (text, onclick) => h("button.tinv-link", { onclick }, text);
        const showAll = () => {
            showsAll = true;
            draw();
        };
        const showHidden = () => {
            for (const message of all) hidden.delete(keyOf(message));
            draw();
        };
        const hiddenCount = all.length - shown.length;
        const rest = shown.length - listed.length;
        const hiddenText = hiddenCount === 1 ? "Show the hidden warning" : `Show ${hiddenCount} hidden warnings`;
        const links = [
            ...(rest ? [link(`Show ${rest} more`, showAll)] : []),
            ...(hiddenCount ? [link(hiddenText, showHidden)] : []),
        ];
        const content = [
            ...(listed.length ? [h("ul", {}, ...listed.map(item))] : []),
            ...(links.length ? [h("div.tinv-hint.tinv-row", {}, ...links)] : []),
        ];
        const element = byId("tinv_warnings");
        const key = JSON.stringify([tinv.run.id, listed, rest, hiddenCount]);
        if (element.dataset.drawn !== key) {
            element.dataset.drawn = key;
            element.replaceChildren(...content);
        }
        const news = all.filter((message) => !announced.has(message));
        if (news.length) tinv.announce(`Warning: ${news.join(" ")}`);
        announced = new Set(all);
    }

    tinv.ready(() => {
        tinv.on("run-followed", () => {
            announced = new Set();
            showsAll = false;
        });
        tinv.on("run-updated", draw);
    });
})();
