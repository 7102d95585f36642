// "Start from an embedding" offers those in the WebUI's folder, and says which the selected checkpoint takes, and in
// which part.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    let input, list;
    let embeddings = [];
    let activeIndex = -1; // of the selectable option that the arrow keys are on
    let isOpen = false;
    let isFiltering = false; // something was typed since the list was opened

    const selectableOptions = () => [...list.querySelectorAll("[aria-disabled=false]")];

    async function open() {
        try {
            embeddings = (await tinv.call("embeddings", {}, { queue: "init-embedding" })).embeddings;
        } catch {
            embeddings = []; // a name or a file can be typed all the same
        }
        if (document.activeElement === input) draw();
    }

    function close() {
        setOpen(false);
        isFiltering = false;
        input.removeAttribute("aria-activedescendant");
    }

    function setOpen(open) {
        isOpen = open;
        tinv.setHidden(list, !open);
        input.setAttribute("aria-expanded", String(open));
    }

    function draw() {
        const typed = input.value.trim().toLowerCase();
        const offered = embeddings.filter(({ name }) => !isFiltering || name.toLowerCase().includes(typed));
        list.replaceChildren(...offered.map(option));
        setOpen(offered.length > 0);
        setActive(-1);
        if (isOpen) list.scrollIntoView({ block: "nearest" });
    }

    function option({ name, vectors, fits, reason, starts: encoder }) {
        const isSelectable = fits || Boolean(encoder);
        const size = vectors ? `${vectors} ${vectors === 1 ? "vector" : "vectors"}` : "";
        const hint = fits ? size : encoder ? `${reason}; starts ${encoder} only` : reason;
        return h(
            "li",
            {
                role: "option",
                id: `tinv_start_${tinv.randomHex()}`,
                "data-name": name,
                "aria-disabled": String(!isSelectable),
                "aria-selected": String(name.toLowerCase() === input.value.trim().toLowerCase()),
                onmousedown: (event) => {
                    event.preventDefault(); // the field keeps the focus
                    if (isSelectable) choose(name);
                },
            },
            h("span", {}, name),
            h("span.tinv-hint", {}, hint),
        );
    }

    function choose(name) {
        tinv.form.apply({ init_embedding: name });
        close();
    }

    function setActive(index) {
        const options = selectableOptions();
        activeIndex = Math.max(-1, Math.min(options.length - 1, index));
        const active = options[activeIndex];
        for (const item of list.children) item.classList.toggle("tinv-active", item === active);
        if (!active) return input.removeAttribute("aria-activedescendant");
        input.setAttribute("aria-activedescendant", active.id);
        active.scrollIntoView({ block: "nearest" });
    }

    function onKey(event) {
        if (event.key === "ArrowDown" || event.key === "ArrowUp") {
            event.preventDefault();
            if (isOpen) setActive(activeIndex + (event.key === "ArrowDown" ? 1 : -1));
            else open();
        } else if (event.key === "Enter" && isOpen && activeIndex >= 0) {
            event.preventDefault();
            choose(selectableOptions()[activeIndex].dataset.name);
        } else if (event.key === "Escape" && isOpen) {
            event.stopPropagation();
            close();
        }
    }

    tinv.ready(() => {
        const wrapper = byId("tinv_init_embedding");
        input = wrapper && wrapper.querySelector("input, textarea");
        if (!input) return; // the WebUI does not show its files
        list = h("ul.tinv-embedding-options", { id: "tinv_starts", role: "listbox", "aria-label": "Embeddings" });
        wrapper.append(list);
        const attributes = {
            role: "combobox",
            autocomplete: "off",
            "aria-autocomplete": "list",
            "aria-controls": list.id,
        };
        for (const [name, value] of Object.entries(attributes)) input.setAttribute(name, value);
        close();
        input.addEventListener("focus", open);
        input.addEventListener("blur", close);
        input.addEventListener("input", () => {
            isFiltering = true;
            draw();
        });
        input.addEventListener("keydown", onKey);
        tinv.on("embeddings-changed", () => {
            if (isOpen) open();
        });
    });
})();
