// "Start from an embedding" offers those in the WebUI's folder, and says which the selected checkpoint takes, wholly or in part.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    let wrapper, input, list;
    let embeddings = [];
    let at = -1; // the option that the arrow keys are on
    let filtering = false; // since something was typed

    const shown = () => [...list.querySelectorAll("[aria-disabled=false]")];

    async function open() {
        try {
            embeddings = (await tinv.call("embeddings", {}, { lane: "starts" })).embeddings;
        } catch {
            embeddings = []; // a name or a file can be typed all the same
        }
        if (document.activeElement === input) draw();
    }

    function draw() {
        const typed = input.value.trim().toLowerCase();
        const found = embeddings.filter(({ name }) => !filtering || name.toLowerCase().includes(typed));
        list.replaceChildren(...found.map(option));
        list.hidden = !found.length;
        input.setAttribute("aria-expanded", String(!list.hidden));
        move(-1);
        if (!list.hidden) list.scrollIntoView({ block: "nearest" });
    }

    function option({ name, vectors, fits, reason, starts }) {
        const possible = fits || Boolean(starts);
        const size = vectors ? `${vectors} ${vectors === 1 ? "vector" : "vectors"}` : "";
        const told = fits ? size : starts ? `${reason}; starts ${starts} only` : reason;
        const item = tinv.h(
            "li",
            {
                role: "option",
                id: `tinv_start_${tinv.randomHex()}`,
                "aria-disabled": String(!possible),
                "aria-selected": String(name.toLowerCase() === input.value.trim().toLowerCase()),
                onmousedown: (event) => {
                    event.preventDefault(); // the field keeps the focus
                    if (possible) choose(name);
                },
            },
            tinv.h("span", {}, name),
            tinv.h("span.tinv-hint", {}, told),
        );
        item.dataset.name = name;
        return item;
    }

    function choose(name) {
        tinv.form.apply({ init_embedding: name });
        close();
    }

    function close() {
        list.hidden = true;
        filtering = false;
        input.setAttribute("aria-expanded", "false");
        input.removeAttribute("aria-activedescendant");
    }

    function move(to) {
        const options = shown();
        at = options.length ? Math.max(-1, Math.min(options.length - 1, to)) : -1;
        for (const item of list.children) item.classList.toggle("tinv-at", item === options[at]);
        if (at < 0) return input.removeAttribute("aria-activedescendant");
        input.setAttribute("aria-activedescendant", options[at].id);
        options[at].scrollIntoView({ block: "nearest" });
    }

    function key(event) {
        if (event.key === "ArrowDown" || event.key === "ArrowUp") {
            event.preventDefault();
            if (list.hidden) return open();
            move(at + (event.key === "ArrowDown" ? 1 : -1));
        } else if (event.key === "Enter" && !list.hidden && at >= 0) {
            event.preventDefault();
            choose(shown()[at].dataset.name);
        } else if (event.key === "Escape" && !list.hidden) {
            event.stopPropagation();
            close();
        }
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        wrapper = tinv.byId("tinv_init_embedding");
        input = wrapper && wrapper.querySelector("input, textarea");
        if (!input) return; // the WebUI keeps its files to itself
        list = tinv.h("ul.tinv-starts", { id: "tinv_starts", role: "listbox", "aria-label": "Embeddings", hidden: true });
        wrapper.append(list);
        for (const [name, value] of Object.entries({
            role: "combobox",
            autocomplete: "off",
            "aria-autocomplete": "list",
            "aria-controls": "tinv_starts",
            "aria-expanded": "false",
        }))
            input.setAttribute(name, value);
        input.addEventListener("focus", open);
        input.addEventListener("blur", close);
        input.addEventListener("input", () => {
            filtering = true;
            draw();
        });
        input.addEventListener("keydown", key);
        tinv.on("library", () => list.hidden || open());
    });
})();
