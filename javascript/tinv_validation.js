// How much better than at the start the word does on views of the pictures that it does not learn from, step by step.
// Drawn while Details is open.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const HEIGHT = 190;
    const LABEL_HEIGHT = 14;
    const EXPLANATION =
        "Below zero is better than at the start. Test views are pictures held back from training, or yours with other " +
        "noise. They stay the same at every step, so this is steadier than the loss.";
    let drawnKey = "";

    /** Changes of the error in percent of that at the start, with half the width of their 95 % interval. */
    function points() {
        return [...tinv.run.history.validation.values()]
            .sort((a, b) => a.step - b.step)
            .map(({ step, loss, change, interval }) => {
                const start = loss - change;
                const percent = (value) => (100 * value) / start;
                return { step, loss, change: percent(change), interval: percent(interval || 0) };
            })
            .filter((point) => Number.isFinite(point.change));
    }

    const sign = (value) => (value > 0 ? "+" : value < 0 ? "−" : "");
    const signed = (percent) => `${sign(percent)}${tinv.format.axisLabel(Math.abs(percent))} %`;

    function chart(all, bestStep) {
        const { MARGIN, svg, roundUp } = tinv.chart;
        const width = tinv.chart.width();
        const right = width - MARGIN.right;
        const bottom = HEIGHT - MARGIN.bottom;
        const maxStep = Math.max(tinv.chart.totalSteps(), all[all.length - 1].step, 1);
        // of an interval that is much wider than all changes only the middle is shown
        const reach = Math.max(...all.map((point) => Math.abs(point.change)));
        const bound = ({ change, interval }, sign) => change + sign * Math.min(interval, 2 * reach || interval);
        const lowest = Math.min(...all.map((point) => bound(point, -1)));
        const highest = Math.max(...all.map((point) => bound(point, 1)));
        const [minimum, maximum] = [lowest < 0 ? -roundUp(-lowest) : 0, highest > 0 ? roundUp(highest) : 0];
        const x = (step) => MARGIN.left + (step / maxStep) * (right - MARGIN.left);
        const y = (value) => MARGIN.top + ((maximum - value) / (maximum - minimum || 1)) * (bottom - MARGIN.top);
        const at = (step, value) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`;
        const label = (text, atX, atY, anchor) => svg("text", { x: atX, y: atY, "text-anchor": anchor }, text);
        const gridLine = (value, className = "") =>
            svg("line", { class: `tinv-grid ${className}`, x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) });
        const band = [
            ...all.map((point) => at(point.step, bound(point, 1))),
            ...all.map((point) => at(point.step, bound(point, -1))).reverse(),
        ];
        const best = all.find((point) => point.step === bestStep);
        const isLegible = (level) => level === 0 || Math.abs(y(level) - y(0)) > LABEL_HEIGHT;
        const levels = [...new Set([minimum, 0, maximum])].filter(isLegible);
        return svg(
            "svg",
            {
                viewBox: `0 0 ${width} ${HEIGHT}`,
                class: "tinv-chart",
                role: "img",
                "aria-labelledby": "tinv_validation_title",
            },
            svg("title", { id: "tinv_validation_title" }, summary(all, best)),
            ...levels.flatMap((level) => [
                gridLine(level, level === 0 ? "tinv-zero" : ""),
                label(signed(level), MARGIN.left - 6, y(level) + 4, "end"),
            ]),
            ...[0, 0.5, 1].map((share) => label(Math.round(share * maxStep), x(share * maxStep), HEIGHT - 8, "middle")),
            svg("polygon", { class: "tinv-band", points: band.join(" ") }),
            svg("polyline", {
                class: "tinv-line tinv-validation",
                points: all.map((point) => at(point.step, point.change)).join(" "),
            }),
            ...all.map((p) => svg("circle", { class: "tinv-dot", cx: x(p.step), cy: y(p.change), r: 2.5 })),
            ...(best ? bestMark(best, x(best.step), y(best.change)) : []),
        );
    }

    function bestMark({ step }, x, y) {
        const { svg } = tinv.chart;
        const anchor = x > tinv.chart.width() - 120 ? "end" : x < 90 ? "start" : "middle";
        const labelY = y > HEIGHT - 55 ? y - 12 : y + 20; // below the curve if there is room
        return [
            svg("circle", { class: "tinv-best-mark", cx: x, cy: y, r: 6 }),
            svg(
                "text",
                { class: "tinv-best-label", x, y: labelY, "text-anchor": anchor },
                `best: step ${step}`,
            ),
        ];
    }

    function summary(all, best) {
        const last = all[all.length - 1];
        const now = `At step ${last.step} the error on the test views is ${signed(last.change)} of the start's`;
        return best ? `${now}; best at step ${best.step} with ${signed(best.change)}` : now;
    }

    function content(all, bestStep) {
        if (!all.length) return [];
        const { legendEntry, legendLine, svg, table } = tinv.chart;
        const rows = all.map(({ step, change, interval, loss }) => [
            String(step),
            signed(change),
            `± ${tinv.format.axisLabel(interval)} %`,
            tinv.format.tableCell(loss),
        ]);
        return [
            h("h4", {}, "Is it still getting better?"),
            h(
                "div.tinv-legend",
                {},
                legendEntry(legendLine("tinv-validation"), "Error on test views, compared with the start"),
                legendEntry(svg("rect", { class: "tinv-band", width: 24, height: 8 }), "95 % interval"),
                legendEntry(svg("circle", { class: "tinv-best-mark", cx: 12, cy: 4, r: 3 }), "Best step"),
            ),
            chart(all, bestStep),
            h("p.tinv-hint", {}, EXPLANATION),
            table("Error on test views by step, compared with the start", ["Step", "Change", "Uncertainty", "Loss"], rows),
        ];
    }

    function draw() {
        const { history, id } = tinv.run;
        const all = points();
        const last = [...history.validation.values()].pop();
        const bestStep = history.best ? history.best.step : last && last.best_step;
        const { width, totalSteps } = tinv.chart;
        const key = [id, all.length, last && last.time, bestStep, width(), totalSteps()].join(" ");
        if (key === drawnKey || !byId("tinv_details").open) return;
        drawnKey = key;
        byId("tinv_validation").replaceChildren(...content(all, bestStep));
    }

    tinv.ready(() => {
        tinv.on("run-updated", draw);
        byId("tinv_details").addEventListener("toggle", draw);
    });
})();
