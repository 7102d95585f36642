// The loss as a small drawing, with its numbers for those who cannot see it; and the warnings of the run.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);
    const WIDTH = 600,
        HEIGHT = 220,
        LEFT = 46,
        RIGHT = 54,
        TOP = 10,
        BOTTOM = 26,
        POINTS = 500,
        ROWS = 12;
    let drawn = "";

    /** At most `count` of the points, the last always among them. */
    function thinned(points, count) {
        if (points.length <= count) return points;
        const every = (points.length - 1) / (count - 1);
        return Array.from({ length: count }, (_, i) => points[Math.round(i * every)]);
    }

    /** A round number at or above a value. */
    function ceiling(value) {
        if (!(value > 0)) return 1;
        const power = 10 ** Math.floor(Math.log10(value));
        return [1, 1.5, 2, 3, 4, 5, 7.5, 10].map((n) => n * power).find((n) => n >= value * 0.9999);
    }

    const short = (value) =>
        value === 0 ? "0" : value < 0.001 ? value.toExponential(0) : String(Number(value.toPrecision(2)));

    function chart(steps, total) {
        const points = thinned(steps, POINTS);
        const losses = points
            .map((p) => p.loss)
            .filter(Number.isFinite)
            .sort((a, b) => a - b);
        const highest = ceiling(losses[Math.floor((losses.length - 1) * 0.99)] || 1),
            rates = ceiling(Math.max(...points.map((p) => p.learning_rate || 0)));
        const last = Math.max(total, points[points.length - 1].step, 1);
        const x = (step) => LEFT + (step / last) * (WIDTH - LEFT - RIGHT);
        const y = (value, top) => TOP + (1 - Math.min(1, value / top)) * (HEIGHT - TOP - BOTTOM);
        const path = (name, value, top) =>
            tinv.svg("polyline", {
                class: `tinv-line ${name}`,
                points: points
                    .filter((p) => Number.isFinite(value(p)))
                    .map((p) => `${x(p.step).toFixed(1)},${y(value(p), top).toFixed(1)}`)
                    .join(" "),
            });
        const label = (text, at, height, anchor) => tinv.svg("text", { x: at, y: height, "text-anchor": anchor }, text);
        const svg = tinv.svg("svg", {
            viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
            class: "tinv-chart",
            role: "img",
            "aria-labelledby": "tinv_chart_title",
        });
        svg.append(
            tinv.svg(
                "title",
                { id: "tinv_chart_title" },
                `Loss over ${points[points.length - 1].step} steps, now ${short(points[points.length - 1].smoothed_loss || 0)}`,
            ),
        );
        for (const share of [0, 0.5, 1]) {
            const height = y(share, 1);
            svg.append(tinv.svg("line", { class: "tinv-grid", x1: LEFT, x2: WIDTH - RIGHT, y1: height, y2: height }));
            svg.append(
                label(short(share * highest), LEFT - 6, height + 4, "end"),
                label(short(share * rates), WIDTH - RIGHT + 6, height + 4, "start"),
            );
        }
        for (const share of [0, 0.5, 1])
            svg.append(label(Math.round(share * last), x(share * last), HEIGHT - 8, "middle"));
        svg.append(
            path("tinv-raw", (p) => p.loss, highest),
            path("tinv-rate", (p) => p.learning_rate, rates),
            path("tinv-smooth", (p) => p.smoothed_loss, highest),
        );
        return svg;
    }

    function table(steps) {
        const rows = thinned(steps, ROWS).map((p) =>
            h(
                "tr",
                {},
                ...[p.step, p.loss, p.smoothed_loss, p.learning_rate].map((v) =>
                    h("td", {}, Number.isFinite(v) ? String(Number(v.toPrecision(4))) : ""),
                ),
            ),
        );
        return h(
            "table.tinv-unseen",
            {},
            h("caption", {}, "Loss by step"),
            h("tr", {}, ...["Step", "Loss", "Smoothed loss", "Learning rate"].map((t) => h("th", { scope: "col" }, t))),
            ...rows,
        );
    }

    const key = (name, text) =>
        h(
            "span.tinv-key",
            {},
            tinv.svg(
                "svg",
                { viewBox: "0 0 24 8", class: "tinv-key-line", "aria-hidden": "true" },
                tinv.svg("line", { class: `tinv-line ${name}`, x1: 0, x2: 24, y1: 4, y2: 4 }),
            ),
            text,
        );

    function draw() {
        const { line, data, id } = tinv.run;
        const steps = [...line.steps.values()].sort((a, b) => a.step - b.step),
            last = steps[steps.length - 1];
        const now = [id, steps.length, last && last.step, last && last.time, line.warnings.length].join(" ");
        if (now === drawn || !tinv.byId("tinv_details").open) return;
        drawn = now;
        tinv.byId("tinv_loss").replaceChildren(
            ...(steps.length
                ? [
                      h(
                          "div.tinv-keys",
                          {},
                          key("tinv-smooth", "Loss, smoothed"),
                          key("tinv-raw", "Loss of each step"),
                          key("tinv-rate", "Learning rate (right)"),
                      ),
                      chart(steps, (data && data.steps) || 0),
                      h("p.tinv-hint", {}, "A rough guide; trust the pictures"),
                      table(steps),
                  ]
                : [h("p.tinv-hint", {}, "The loss is drawn here while it learns.")]),
        );
        const messages = [...new Set(line.warnings.map((event) => event.message))];
        tinv.byId("tinv_log").replaceChildren(
            ...(messages.length
                ? [
                      h("h4", {}, "Warnings"),
                      h("ul.tinv-warnings", {}, ...messages.map((text) => h("li", {}, tinv.sentence(text)))),
                  ]
                : []),
        );
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        tinv.on("run", draw);
        tinv.byId("tinv_details").addEventListener("toggle", () => {
            drawn = "";
            draw();
        });
    });
})();
