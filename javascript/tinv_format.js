// How numbers, sizes, times and sentences are written on the page.
(() => {
    "use strict";
    const { tinv } = window;
    const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB"];

    tinv.format = {
        /** 40 s, 5 min, 1 h 20 min */
        duration(seconds) {
            if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
            const minutes = Math.round(seconds / 60);
            return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
        },

        /** Of files, in powers of 1000: 3.2 MB */
        bytes(count) {
            const largestUnit = BYTE_UNITS.length - 1;
            const power = Math.min(largestUnit, Math.max(0, Math.floor(Math.log10(Math.max(1, count)) / 3)));
            const value = count / 1000 ** power;
            return `${value >= 10 || power === 0 ? Math.round(value) : value.toFixed(1)} ${BYTE_UNITS[power]}`;
        },

        /** Of memory, in powers of 1024, as on the box of a graphics card: 7.5 GB */
        memory: (mb) => (mb < 1024 ? `${Math.round(mb)} MB` : `${(mb / 1024).toFixed(1)} GB`),

        date: (seconds) =>
            new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }),

        loss: (value) => value.toFixed(4),

        imagesPerSecond: (rate) => `${rate >= 10 ? Math.round(rate) : rate.toPrecision(2)} pictures/s`,

        axisLabel: (value) =>
            value === 0 ? "0" : value < 0.001 ? value.toExponential(0) : String(Number(value.toPrecision(2))),

        /** Four significant digits; nothing for what is no number. */
        tableCell: (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : ""),

        /** A strength as prompts take it: without an exponent. */
        strength: (value) => (/e/.test(String(value)) ? value.toFixed(6) : String(value)),

        /** A setting's value as its field holds it. */
        fieldText(value) {
            if (Array.isArray(value)) return value.join("\n");
            return typeof value === "number" ? String(value) : value;
        },

        /** The lines of a text that are not empty. */
        lines: (text) =>
            String(text)
                .split("\n")
                .map((line) => line.trim())
                .filter(Boolean),

        /** With a capital, unless it begins with the name of a file, and a full stop. */
        sentence: (text) =>
            text &&
            (/^[^\s:]*[._]\w/.test(text) ? text[0] : text[0].toUpperCase()) +
                text.slice(1) +
                (/[.!?…]$/.test(text) ? "" : "."),
    };
})();
