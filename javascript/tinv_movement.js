// How the vectors move: their norm, and how similar they are to those they started from. Drawn while Details is open.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const HEIGHT = 180;
    const MOST_POINTS = 400;
    const MOST_TABLE_ROWS = 12;
    const GRID = [0, 0.5, 1];
    const EXPLANATION =
        "A norm that keeps growing, or a similarity that falls below zero, says that the learning rate is too high.";
    let drawnKey = "";

    function chart(points) {
        const { MARGIN, svg, roundUp } = tinv.chart;
        const width = tinv.chart.width();
        const [right, bottom] = [width - MARGIN.right, HEIGHT - MARGIN.bottom];
        const last = points[points.length - 1];
        const maxStep = Math.max(tinv.chart.totalSteps(), last.step, 1);
        const maxNorm = roundUp(Math.max(...points.map((point) => point.norm)));
        const least = Math.min(...points.map((point) => point.similarity)) < 0 ? -1 : 0;
        const x = (step) => MARGIN.left + (step / maxStep) * (right - MARGIN.left);
        const y = (share) => MARGIN.top + (1 - share) * (bottom - MARGIN.top);
        const text = (label, atX, atY, anchor) => svg("text", { x: atX, y: atY, "text-anchor": anchor }, label);
        const line = (className, share) =>
            svg("polyline", {
                class: `tinv-line ${className}`,
                points: points.map((point) => `${x(point.step).toFixed(1)},${y(share(point)).toFixed(1)}`).join(" "),
            });
        const { axisLabel } = tinv.format;
        const title = `After ${last.step} steps the norm is ${axisLabel(last.norm)} and the similarity ${axisLabel(last.similarity)}`;
        const attributes = { viewBox: `0 0 ${width} ${HEIGHT}`, class: "tinv-chart", role: "img" };
        return svg(
            "svg",
            { ...attributes, "aria-labelledby": "tinv_movement_title" },
            svg("title", { id: "tinv_movement_title" }, title),
            ...GRID.flatMap((share) => [
                svg("line", { class: "tinv-grid", x1: MARGIN.left, x2: right, y1: y(share), y2: y(share) }),
                text(axisLabel(share * maxNorm), MARGIN.left - 6, y(share) + 4, "end"),
                text(axisLabel(least + share * (1 - least)), right + 6, y(share) + 4, "start"),
            ]),
            ...GRID.map((share) => text(Math.round(share * maxStep), x(share * maxStep), HEIGHT - 8, "middle")),
            line("tinv-norm", (point) => point.norm / maxNorm),
            line("tinv-similarity", (point) => (point.similarity - least) / (1 - least)),
        );
    }

    function content(points) {
        if (!points.length) return [];
        const { legendEntry, legendLine, table, downsample } = tinv.chart;
        const rows = downsample(points, MOST_TABLE_ROWS).map(({ step, norm, similarity }) =>
            [step, norm, similarity].map(tinv.format.tableCell),
        );
        return [
            h("h4", {}, "How the vectors move"),
            h(
                "div.tinv-legend",
                {},
                legendEntry(legendLine("tinv-norm"), "Norm"),
                legendEntry(legendLine("tinv-similarity"), "Similarity to the start (right)"),
            ),
            chart(downsample(points, MOST_POINTS)),
            h("p.tinv-hint", {}, EXPLANATION),
            table("Norm and similarity by step", ["Step", "Norm", "Similarity"], rows),
        ];
    }

    function draw() {
        const { history, id } = tinv.run;
        const points = [...history.steps.values()]
            .filter(({ norm, similarity }) => Number.isFinite(norm) && Number.isFinite(similarity))
            .sort((a, b) => a.step - b.step);
        const last = points[points.length - 1];
        const key = [id, points.length, last && last.step, last && last.time, tinv.chart.width()].join(" ");
        if (key === drawnKey || !byId("tinv_details").open) return;
        drawnKey = key;
        byId("tinv_movement").replaceChildren(...content(points));
    }

    tinv.ready(() => {
        tinv.on("run-updated", draw);
        byId("tinv_details").addEventListener("toggle", draw);
    });
})();
