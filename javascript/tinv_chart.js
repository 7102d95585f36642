// The loss as a chart, with a table for those who cannot see it. Drawn while Details is open.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const WIDTHS = [300, 600]; // the least and the most; as many units as there are pixels, so that labels stay legible
    const HEIGHT = 220;
    const MARGIN = { left: 52, right: 54, top: 10, bottom: 26 };
    const MOST_POINTS = 500;
    const MOST_TABLE_ROWS = 12;
    const GRID = [0, 0.5, 1]; // shares of an axis
    const CLIP_QUANTILE = 0.99; // the few highest losses must not squeeze the rest
    const ROUND_NUMBERS = [1, 1.5, 2, 3, 4, 5, 7.5, 10];
    let drawnKey = "";

    function svg(tag, attributes = {}, ...children) {
        const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
        for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
        element.append(...children);
        return element;
    }

    /** At most `count` of the points, always with the last. */
    function downsample(points, count) {
        if (points.length <= count) return points;
        const stride = (points.length - 1) / (count - 1);
        return Array.from({ length: count }, (_, i) => points[Math.round(i * stride)]);
    }

    /** A round number at or above a value. */
    function roundUp(value) {
        if (!(value > 0)) return 1;
        const power = 10 ** Math.floor(Math.log10(value));
        return ROUND_NUMBERS.map((number) => number * power).find((number) => number >= value * 0.9999);
    }

    function quantile(values, share) {
        const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
        return sorted[Math.floor((sorted.length - 1) * share)];
    }

    const width = () => Math.max(WIDTHS[0], Math.min(WIDTHS[1], byId("tinv_details").clientWidth));

    /** The last step of a chart: that of the training, or where it ended. */
    function totalSteps() {
        const { report } = tinv.run;
        return !report ? 0 : report.state === "finished" ? report.step : report.steps;
    }

    function chart(stepEvents) {
        const points = downsample(stepEvents, MOST_POINTS);
        const last = points[points.length - 1];
        const maxLoss = roundUp(quantile(points.map((point) => point.loss), CLIP_QUANTILE) || 1);
        const maxRate = roundUp(Math.max(...points.map((point) => point.learning_rate || 0)));
        const maxStep = Math.max(totalSteps(), last.step, 1);
        const chartWidth = width();
        const right = chartWidth - MARGIN.right;
        const x = (share) => MARGIN.left + share * (right - MARGIN.left);
        const y = (share) => MARGIN.top + (1 - Math.min(1, share)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
        const label = (text, atX, atY, anchor) => svg("text", { x: atX, y: atY, "text-anchor": anchor }, text);
        const line = (className, key, maximum) =>
            svg("polyline", {
                class: `tinv-line ${className}`,
                points: points
                    .filter((point) => Number.isFinite(point[key]))
                    .map((point) => `${x(point.step / maxStep).toFixed(1)},${y(point[key] / maximum).toFixed(1)}`)
                    .join(" "),
            });
        const { axisLabel } = tinv.format;
        const title = `Loss over ${last.step} steps, now ${axisLabel(last.smoothed_loss || 0)}`;
        return svg(
            "svg",
            {
                viewBox: `0 0 ${chartWidth} ${HEIGHT}`,
                class: "tinv-chart",
                role: "img",
                "aria-labelledby": "tinv_chart_title",
            },
            svg("title", { id: "tinv_chart_title" }, title),
            ...GRID.flatMap((share) => [
                svg("line", { class: "tinv-grid", x1: MARGIN.left, x2: right, y1: y(share), y2: y(share) }),
                label(axisLabel(share * maxLoss), MARGIN.left - 6, y(share) + 4, "end"),
                label(axisLabel(share * maxRate), right + 6, y(share) + 4, "start"),
            ]),
            ...GRID.map((share) => label(Math.round(share * maxStep), x(share), HEIGHT - 8, "middle")),
            line("tinv-raw", "loss", maxLoss),
            line("tinv-rate", "learning_rate", maxRate),
            line("tinv-smooth", "smoothed_loss", maxLoss),
        );
    }

    const legendLine = (className) => svg("line", { class: `tinv-line ${className}`, x1: 0, x2: 24, y1: 4, y2: 4 });

    function legendEntry(symbol, text) {
        const sample = svg("svg", { viewBox: "0 0 24 8", class: "tinv-legend-line", "aria-hidden": "true" }, symbol);
        return h("span.tinv-legend-entry", {}, sample, text);
    }

    /** A chart's numbers for those who cannot see it. */
    function table(caption, headings, rows) {
        return h(
            "table.tinv-visually-hidden",
            {},
            h("caption", {}, caption),
            h("tr", {}, ...headings.map((text) => h("th", { scope: "col" }, text))),
            ...rows.map((cells) => h("tr", {}, ...cells.map((text) => h("td", {}, text)))),
        );
    }

    function lossTable(stepEvents) {
        const rows = downsample(stepEvents, MOST_TABLE_ROWS).map((event) =>
            [event.step, event.loss, event.smoothed_loss, event.learning_rate].map(tinv.format.tableCell),
        );
        return table("Loss by step", ["Step", "Loss", "Smoothed loss", "Learning rate"], rows);
    }

    function lossContent(stepEvents) {
        if (!stepEvents.length) return [h("p.tinv-hint", {}, "The loss will appear here during training.")];
        return [
            h(
                "div.tinv-legend",
                {},
                legendEntry(legendLine("tinv-smooth"), "Loss, smoothed"),
                legendEntry(legendLine("tinv-raw"), "Loss of each step"),
                legendEntry(legendLine("tinv-rate"), "Learning rate (right)"),
            ),
            chart(stepEvents),
            h("p.tinv-hint", {}, "A rough guide. Trust the pictures more."),
            lossTable(stepEvents),
        ];
    }

    function draw() {
        const { history, id } = tinv.run;
        const stepEvents = [...history.steps.values()].sort((a, b) => a.step - b.step);
        const last = stepEvents[stepEvents.length - 1];
        const key = [id, stepEvents.length, last && last.step, last && last.time, width(), totalSteps()].join(" ");
        if (key === drawnKey || !byId("tinv_details").open) return;
        drawnKey = key;
        byId("tinv_loss").replaceChildren(...lossContent(stepEvents));
    }

    tinv.chart = { MARGIN, width, totalSteps, downsample, svg, roundUp, legendLine, legendEntry, table };

    tinv.ready(() => {
        tinv.on("run-updated", draw);
        byId("tinv_details").addEventListener("toggle", () => {
            drawnKey = "";
            draw();
        });
    });
})();
