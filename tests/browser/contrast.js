// Text without enough contrast (WCAG 2.1, 1.4.3), from computed colours: [[ratio, text, element], ...].
(root) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    /** Any CSS colour as [red, green, blue, alpha]; the last from 0 to 1. */
    const parse = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = ([r, g, b, a], [r2, g2, b2]) => [r * a + r2 * (1 - a), g * a + g2 * (1 - a), b * a + b2 * (1 - a), 1];
    const luminance = (color) => {
        const [r, g, b] = color.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => {
        const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
        return (high + 0.05) / (low + 0.05);
    };
    /** All colours that may lie behind an element: each stop of a gradient is one. */
    const backgrounds = (element) => {
        if (!element) return [[255, 255, 255, 1]];
        const style = getComputedStyle(element);
        const behind = () => backgrounds(element.parentElement || element.getRootNode().host);
        const stops = style.backgroundImage.match(/(rgba?|color|oklch|oklab|hsla?)\([^()]*\)/g) || [];
        const own = [...(stops.length ? stops : [style.backgroundColor])].map(parse);
        const base = parse(style.backgroundColor);
        const under = own.every((c) => c[3] === 1) ? [] : base[3] === 1 && stops.length ? [base] : behind();
        return own.flatMap((color) => (color[3] === 1 ? [color] : under.map((u) => over(over(base, u), u)).map((u) => over(color, u))));
    };
    const isVisible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const needed = ({ fontSize, fontWeight }) => {
        const isLarge = parseFloat(fontSize) >= 24 || (parseFloat(fontSize) >= 18.66 && fontWeight >= 700);
        return isLarge ? 3 : 4.5;
    };
    const found = [];
    const check = (element, style, text) => {
        const color = parse(element instanceof SVGElement ? style.fill : style.color);
        const worst = Math.min(...backgrounds(element).map((background) => ratio(over(color, background), background)));
        if (worst < needed(style)) found.push([Math.round(worst * 100) / 100, text.trim().slice(0, 40), element.outerHTML.slice(0, 120)]);
    };
    for (const element of document.querySelectorAll(`${root} *`)) {
        if (!isVisible(element) || element.disabled || element.closest(".tinv-visually-hidden, [aria-disabled=true]")) continue;
        const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join(" ");
        if (text.trim()) check(element, getComputedStyle(element), text);
        if (element.placeholder && !element.value) check(element, getComputedStyle(element, "::placeholder"), element.placeholder);
    }
    return found;
}
