// What to try next, once a training has ended: Python's advice, the weightiest first.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const MOST_SHOWN = 3;
    let askedFor = ""; // the run and the end that the advice shown is about

    async function refresh() {
        const { report, state } = tinv.run;
        const hasEnded = report && ["finished", "stopped"].includes(state);
        const key = hasEnded ? `${report.id} ${state} ${report.step}` : "";
        if (key === askedFor) return;
        askedFor = key;
        draw([]);
        if (!hasEnded) return;
        try {
            const { advice } = await tinv.call("advice", { run: report.id });
            if (askedFor === key) draw(advice);
        } catch (error) {
            console.info("Textual Inversion: no advice:", error.message);
            if (error.offline) askedFor = "";
        }
    }

    function draw(advice) {
        const element = byId("tinv_next");
        tinv.setHidden(element, !advice.length);
        const item = ({ title, reason }) => h("li", {}, h("b", {}, tinv.format.sentence(title)), " ", reason);
        const rest = advice.slice(MOST_SHOWN);
        const more = rest.length
            ? h("details", {}, h("summary", {}, `${rest.length} more`), h("ul", {}, ...rest.map(item)))
            : "";
        element.replaceChildren(
            h("h4", {}, "What to try next"),
            h("ul", {}, ...advice.slice(0, MOST_SHOWN).map(item)),
            more,
        );
    }

    tinv.ready(() => tinv.on("run-updated", refresh));
})();
