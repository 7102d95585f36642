// The loss as a chart, with a table for those who cannot see it; and the run's warnings. Drawn while Details is open.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const WIDTH = 600;
    const HEIGHT = 220;
    const MARGIN = { left: 46, right: 54, top: 10, bottom: 26 };
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

    function chart(stepEvents, totalSteps) {
        const points = downsample(stepEvents, MOST_POINTS);
        const last = points[points.length - 1];
        const maxLoss = roundUp(quantile(points.map((point) => point.loss), CLIP_QUANTILE) || 1);
        const maxRate = roundUp(Math.max(...points.map((point) => point.learning_rate || 0)));
        const maxStep = Math.max(totalSteps, last.step, 1);
        const right = WIDTH - MARGIN.right;
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
                viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
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

    function legendEntry(className, text) {
        const line = svg("line", { class: `tinv-line ${className}`, x1: 0, x2: 24, y1: 4, y2: 4 });
        const sample = svg("svg", { viewBox: "0 0 24 8", class: "tinv-legend-line", "aria-hidden": "true" }, line);
        return h("span.tinv-legend-entry", {}, sample, text);
    }

    function lossTable(stepEvents) {
        const headings = ["Step", "Loss", "Smoothed loss", "Learning rate"];
        const rows = downsample(stepEvents, MOST_TABLE_ROWS).map((event) => {
            const values = [event.step, event.loss, event.smoothed_loss, event.learning_rate];
            return h("tr", {}, ...values.map((value) => h("td", {}, tinv.format.tableCell(value))));
        });
        return h(
            "table.tinv-visually-hidden",
            {},
            h("caption", {}, "Loss by step"),
            h("tr", {}, ...headings.map((text) => h("th", { scope: "col" }, text))),
            ...rows,
        );
    }

    function lossContent(stepEvents, totalSteps) {
        if (!stepEvents.length) return [h("p.tinv-hint", {}, "The loss is drawn here while it learns.")];
        return [
            h(
                "div.tinv-legend",
                {},
                legendEntry("tinv-smooth", "Loss, smoothed"),
                legendEntry("tinv-raw", "Loss of each step"),
                legendEntry("tinv-rate", "Learning rate (right)"),
            ),
            chart(stepEvents, totalSteps),
            h("p.tinv-hint", {}, "A rough guide; trust the pictures"),
            lossTable(stepEvents),
        ];
    }

    function warningContent(warnings) {
        const messages = [...new Set(warnings.map((event) => event.message))];
        if (!messages.length) return [];
        const items = messages.map((text) => h("li", {}, tinv.format.sentence(text)));
        return [h("h4", {}, "Warnings"), h("ul.tinv-warnings", {}, ...items)];
    }

    function draw() {
        const { history, report, id } = tinv.run;
        const stepEvents = [...history.steps.values()].sort((a, b) => a.step - b.step);
        const last = stepEvents[stepEvents.length - 1];
        const key = [id, stepEvents.length, last && last.step, last && last.time, history.warnings.length].join(" ");
        if (key === drawnKey || !byId("tinv_details").open) return;
        drawnKey = key;
        byId("tinv_loss").replaceChildren(...lossContent(stepEvents, (report && report.steps) || 0));
        byId("tinv_log").replaceChildren(...warningContent(history.warnings));
    }

    tinv.ready(() => {
        tinv.on("run-updated", draw);
        byId("tinv_details").addEventListener("toggle", () => {
            drawnKey = "";
            draw();
        });
    });
})();
