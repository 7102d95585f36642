// One of the pictures to learn from: its number, its caption, what is wrong with it; a click shows it larger.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const KEYS = "Arrow keys: other pictures. Enter: larger. F2: caption. Delete: remove.";

    const cards = () => [...byId("tinv_pictures_list").children];
    const focusIn = (card, selector) => card && card.querySelector(selector).focus();

    /** `onCaption` is called with the new text, `onRemove` without arguments. */
    tinv.pictureCard = ({ id, name, width, height, thumb, caption, warnings = [] }, { onCaption, onRemove }) => {
        const captionInput = h("input.tinv-caption", {
            type: "text",
            tabindex: "-1", // F2 leads here
            placeholder: "Caption (optional)",
            "aria-label": `Caption of ${name}`,
            title: "What is not part of the word, such as “on a table”",
            onchange: (event) => onCaption(event.target.value),
            onkeydown: onCaptionKey,
        });
        captionInput.value = caption || "";
        const image = h("img", { src: thumb, alt: name, loading: "lazy" });
        const size = `${width}×${height}`;
        const open = () => tinv.viewer.show(name, size, thumb, { action: "picture", draft: tinv.pictures.draft, id });
        const thumbnail = h(
            "button.tinv-thumb",
            { "aria-label": `${name}, ${size}`, "aria-description": KEYS, title: `${name}, ${size}`, onclick: open },
            image,
        );
        thumbnail.addEventListener("keydown", (event) => {
            if (event.key === "Delete" || event.key === "Backspace") onRemove();
            else if (event.key === "F2") captionInput.focus();
            else return;
            event.preventDefault();
        });
        const removeButton = h(
            "button.tinv-remove",
            { tabindex: "-1", title: "Remove", "aria-label": `Remove ${name}`, onclick: onRemove },
            tinv.icon("cross"),
        );
        const warningItems = warnings.map((text) => h("li", {}, text));
        return h(
            "li.tinv-picture",
            { "data-id": id },
            h("div.tinv-picture-frame", {}, thumbnail, removeButton),
            captionInput,
            warnings.length ? h("ul.tinv-warnings", {}, ...warningItems) : null,
        );
    };

    /** Enter, Tab and the arrows lead to the next caption, Escape back to the picture. */
    function onCaptionKey(event) {
        const all = cards();
        const index = all.indexOf(event.target.closest("li"));
        const back = event.key === "ArrowUp" || (event.key === "Tab" && event.shiftKey);
        const isMove = ["Enter", "Tab", "ArrowUp", "ArrowDown"].includes(event.key) && !event.ctrlKey && !event.metaKey;
        const next = isMove && all[index + (back ? -1 : 1)];
        if (next) focusIn(next, ".tinv-caption");
        else if (event.key === "Escape") focusIn(all[index], ".tinv-thumb");
        else return;
        event.preventDefault();
    }
})();
