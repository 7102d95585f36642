// The pictures to learn from, as the server holds them for this page: shown, captioned, taken away.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const h = (...all) => tinv.h(...all);
    const shown = new Map(); // id → picture, in order
    let refused = [];
    let saving = Promise.resolve(); // what the server has yet to hear

    const pictures = (tinv.pictures = {
        draft: null,
        get count() {
            return shown.size;
        },
        get thumbs() {
            return [...shown.values()].map((picture) => picture.thumb);
        },
        show,
        refuse,
        note,
        changed,
        tell,

        /** Resolves when the server has every picture and caption that the page has. */
        async settled() {
            await tinv.uploads.done();
            await saving;
        },

        /** Pictures of an earlier run instead of these. */
        async reuse(run) {
            await tinv.call("reuse", { draft: pictures.draft, run }, { lane: "pictures", seconds: 300 });
            await reload();
        },

        async example() {
            const reply = await tinv.call("example", { draft: pictures.draft }, { lane: "pictures", seconds: 300 });
            await reload();
            return reply;
        },
    });

    const list = () => tinv.byId("tinv_pictures_list");
    const cardOf = (id) => [...list().children].find((card) => card.dataset.id === id);
    const fileInput = () => tinv.byId("tinv_images").querySelector("input[type=file]");

    /** Say why something was not taken in. */
    function refuse(name, reason) {
        refused.push({ name, reason });
        tinv.announce(`Not added: ${name} ${reason}`);
        note();
    }

    /** What stands above the pictures. */
    function note() {
        const parts = [...tinv.uploads.progress()];
        if (!parts.length && shown.size) {
            const few = shown.size < 3 ? ". 4 make a good start." : "";
            parts.push(
                h("div", {}, ...(shown.size === 1 ? ["1 picture"] : tinv.words("{} pictures", shown.size)), few),
            );
        }
        if (refused.length) {
            const item = ({ name, reason }) =>
                h("li", {}, name ? h("b", {}, name) : null, name ? ": " : "", tinv.sentence(reason));
            const forget = () => {
                refused = [];
                note();
            };
            const dismiss = h("button.tinv-link", { onclick: forget }, "All right");
            parts.push(
                h(
                    "div.tinv-card.tinv-warned",
                    {},
                    h("strong", {}, "Not added:"),
                    h("ul", {}, ...refused.map(item)),
                    dismiss,
                ),
            );
        }
        tinv.byId("tinv_pictures_note").replaceChildren(...parts);
        tinv.byId("tinv_clear").hidden = !shown.size;
        tinv.byId("tinv_images").classList.toggle("tinv-has-pictures", shown.size > 0);
    }

    /** Add to the list, or bring up to date, what a reply holds. */
    function show(reply) {
        for (const picture of reply.pictures || []) {
            const old = cardOf(picture.id);
            shown.set(picture.id, picture);
            if (old) old.replaceWith(draw(picture));
            else list().append(draw(picture));
        }
        for (const { name, reason } of reply.refused || []) refuse(name, reason);
        note();
    }

    function draw(picture) {
        const { id, name, width, height, thumb, warnings = [] } = picture;
        const caption = h("input.tinv-caption", {
            type: "text",
            placeholder: "Caption (optional)",
            "aria-label": `Caption of ${name}`,
            title: "Say what is not part of the word: 'on a table'",
            onchange: (event) => keepCaption(id, event.target.value),
        });
        caption.value = picture.caption || "";
        const remove = h(
            "button.tinv-remove",
            { title: "Remove", "aria-label": `Remove ${name}`, onclick: () => drop(id) },
            "×",
        );
        const img = h("img", { src: thumb, alt: name, title: `${name}, ${width}×${height}`, loading: "lazy" });
        const frame = h("div.tinv-picture-frame", {}, img, remove);
        const warned = warnings.length ? h("ul.tinv-warnings", {}, ...warnings.map((text) => h("li", {}, text))) : null;
        return h("li.tinv-picture", { "data-id": id }, frame, caption, warned);
    }

    /** Tell the server something about the pictures; insists, since losing it would be silent. */
    function tell(action, args = {}) {
        const once = () => tinv.call(action, { draft: pictures.draft, ...args }, { lane: "pictures", seconds: 300 });
        const told = tinv.insist(once).catch((error) => refuse("", error.message));
        saving = told;
        return told;
    }

    async function keepCaption(id, text) {
        if (shown.has(id)) shown.get(id).caption = text;
        await tell("caption", { id, text });
        changed();
    }

    async function drop(id) {
        const card = cardOf(id);
        const next = card.nextElementSibling || card.previousElementSibling;
        card.remove();
        shown.delete(id);
        note();
        (next ? next.querySelector(".tinv-remove") : fileInput()).focus();
        const reply = await tell("remove", { id });
        if (reply && reply.pictures) renew(reply); // what was the same as this picture no longer is
        changed();
    }

    async function clear() {
        tinv.memory.set("trained", null); // what comes next is another run's
        tinv.uploads.cancel();
        refused = [];
        await tell("clear");
        await reload();
        fileInput().focus();
    }

    async function reload() {
        const once = () => tinv.call("pictures", { draft: pictures.draft }, { lane: "pictures", seconds: 300 });
        renew(await tinv.insist(once));
        changed();
    }

    /** Show exactly these pictures; cards that say the same already stay, with what is being typed in them. */
    function renew({ pictures: now = [] }) {
        const kept = new Set(now.map((picture) => picture.id));
        for (const id of [...shown.keys()].filter((one) => !kept.has(one))) {
            shown.delete(id);
            cardOf(id).remove();
        }
        const differs = (picture) => {
            const old = shown.get(picture.id);
            return !old || old.thumb !== picture.thumb || String(old.warnings) !== String(picture.warnings);
        };
        show({ pictures: now.filter(differs) });
    }

    function changed() {
        tinv.emit("pictures", shown.size);
        if (tinv.started) tinv.form.changed();
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        pictures.draft = tinv.memory.get("draft", null);
        if (!/^[0-9a-f]{32}$/.test(pictures.draft || "")) {
            pictures.draft = tinv.randomHex();
            tinv.memory.set("draft", pictures.draft);
        }
        tinv.byId("tinv_clear").addEventListener("click", clear);
        reload().catch((error) => refuse("", error.message));
    });
})();
