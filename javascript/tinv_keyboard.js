// The keyboard: one tab stop for each group, arrow keys within it, and Ctrl+Enter for Train.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId } = tinv;
    const SAME_LINE_PX = 8;
    const NEIGHBOURS = { ArrowLeft: -1, ArrowRight: 1 };
    const LINES = { ArrowUp: -1, ArrowDown: 1 };

    /** Makes the elements that a selector finds in a container one tab stop: arrow keys, Home and End move within it. */
    tinv.roving = (container, selector) => {
        let current = null;
        const items = () => [...container.querySelectorAll(selector)].filter(tinv.isVisible);

        function update() {
            const all = items();
            if (!all.includes(current)) current = all[0];
            for (const item of all) {
                const tabIndex = item === current ? 0 : -1;
                if (item.tabIndex !== tabIndex) item.tabIndex = tabIndex;
            }
        }

        container.addEventListener("focusin", ({ target }) => {
            const item = target.closest(selector);
            if (!item) return;
            current = item;
            update();
        });
        container.addEventListener("keydown", (event) => {
            if (!event.target.matches(selector) || event.ctrlKey || event.metaKey || event.altKey) return;
            const next = destination(items(), event.target, event.key);
            if (!next) return;
            event.preventDefault();
            next.focus();
            next.scrollIntoView({ block: "nearest", inline: "nearest" });
        });
        new MutationObserver(update).observe(container, {
            childList: true,
            subtree: true,
            attributes: true,
            attributeFilter: ["class"],
        });
        update();
    };

    function destination(items, from, key) {
        if (key === "Home") return items[0];
        if (key === "End") return items[items.length - 1];
        if (NEIGHBOURS[key]) return items[items.indexOf(from) + NEIGHBOURS[key]];
        return LINES[key] ? nearestOnOtherLine(items, from, LINES[key]) : null;
    }

    /** The element above (-1) or below (1), on the nearest line that has any. */
    function nearestOnOtherLine(items, from, direction) {
        const middle = (item) => {
            const { left, width, top, height } = item.getBoundingClientRect();
            return { x: left + width / 2, y: top + height / 2 };
        };
        const start = middle(from);
        const distances = items
            .map((item) => ({ item, at: middle(item) }))
            .map(({ item, at }) => ({ item, dx: Math.abs(at.x - start.x), dy: direction * (at.y - start.y) }))
            .filter(({ dy }) => dy > SAME_LINE_PX);
        const line = Math.min(...distances.map(({ dy }) => dy));
        const onLine = distances.filter(({ dy }) => dy < line + SAME_LINE_PX);
        return onLine.sort((a, b) => a.dx - b.dx).map(({ item }) => item)[0];
    }

    /** Some gradio versions give each radio button a name of its own, and so a tab stop. */
    function joinRadioButtons() {
        for (const group of document.querySelectorAll("#tab_textual_inversion fieldset[id]"))
            for (const radio of group.querySelectorAll("input[type=radio]")) radio.name = `radio-${group.id}`;
    }

    function trainOnCtrlEnter(event) {
        const isShortcut = event.key === "Enter" && (event.ctrlKey || event.metaKey);
        if (!isShortcut || !tinv.isVisible(byId("tinv_train")) || document.querySelector("dialog[open]")) return;
        event.preventDefault();
        event.stopPropagation();
        const { activeElement } = document;
        if (activeElement.matches("input, textarea")) activeElement.dispatchEvent(new Event("change", { bubbles: true }));
        tinv.actions.train();
    }

    tinv.ready(() => {
        joinRadioButtons();
        document.addEventListener("keydown", trainOnCtrlEnter, true);
        tinv.roving(byId("tinv_pictures_list"), ".tinv-thumb");
        tinv.roving(byId("tinv_suggestions"), "button");
        tinv.roving(byId("tinv_previews_gallery"), "button");
        tinv.roving(byId("tinv_runs"), "button");
        tinv.buttonById("tinv_train").setAttribute("aria-keyshortcuts", "Control+Enter");
    });
})();
