// The pictures to learn from: dropped, chosen, pasted or taken from a folder; uploaded one by one, each with its caption.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const LARGEST = 100e6;
    const h = (...all) => tinv.h(...all);
    const shown = new Map(); // id → picture, in order
    let refused = [], waiting = [], added = 0, total = 0, working = false;

    const pictures = (tinv.pictures = {
        draft: null,
        get count() { return shown.size; },
        get thumbs() { return [...shown.values()].map((picture) => picture.thumb); },
        addFiles,

        /** Pictures of an earlier run instead of these. */
        async reuse(run) {
            show(await tinv.call("reuse", { draft: pictures.draft, run }, { lane: "pictures", seconds: 300 }));
            await reload();
        },
        async example() {
            const reply = await tinv.call("example", { draft: pictures.draft }, { lane: "pictures", seconds: 300 });
            await reload();
            return reply;
        },
    });

    const images = () => tinv.byId("tinv_images");
    const input = () => images().querySelector("input[type=file]");

    function addFiles(files) {
        const order = [...files].sort((a, b) => isText(a) - isText(b) || a.name.localeCompare(b.name, undefined, { numeric: true }));
        for (const file of order) {
            if (file.size > LARGEST) refuse(file.name, "larger than 100 MB");
            else if (!isText(file) && file.type && !file.type.startsWith("image/")) refuse(file.name, "not a picture");
            else { waiting.push(file); total += 1; }
        }
        work();
    }
    const isText = (file) => /\.txt$/i.test(file.name);

    function refuse(name, reason) {
        refused.push({ name, reason });
        note();
    }

    async function work() {
        if (working) return note();
        working = true;
        while (waiting.length) {
            const file = waiting.shift();
            added += 1;
            note();
            try {
                const path = await tinv.insist(() => tinv.upload(file), () => note("The WebUI does not answer; trying again"));
                show(await tinv.call("add", { draft: pictures.draft, path, name: file.name }, { lane: "pictures", seconds: 120 }));
            } catch (error) {
                refuse(file.name, error.message);
            }
        }
        working = false;
        added = total = 0;
        note();
        changed();
    }

    function note(instead = "") {
        const place = tinv.byId("tinv_pictures_note");
        const parts = [];
        if (working) {
            const cancel = h("button.tinv-link", { onclick: () => { waiting = []; total = added; } }, "Cancel");
            parts.push(h("div", {}, instead || tinv.words("Adding {} of {}", added, total), " ", waiting.length ? cancel : ""));
        } else if (shown.size) {
            parts.push(h("div", {}, ...(shown.size === 1 ? ["1 picture"] : tinv.words("{} pictures", shown.size)), shown.size < 3 ? ". 4 make a good start." : ""));
        }
        if (refused.length) {
            const items = refused.map(({ name, reason }) => h("li", {}, h("b", {}, name), ": ", tinv.sentence(reason)));
            const dismiss = h("button.tinv-link", { onclick: () => { refused = []; note(); } }, "All right");
            parts.push(h("div.tinv-card.tinv-warned", {}, h("strong", {}, "Left out:"), h("ul", {}, ...items), dismiss));
        }
        place.replaceChildren(...parts);
        tinv.byId("tinv_clear").hidden = !shown.size;
        images().classList.toggle("tinv-has-pictures", shown.size > 0);
    }

    function show(reply) {
        for (const picture of reply.pictures || (reply.picture ? [reply.picture] : [])) {
            const old = shown.get(picture.id);
            shown.set(picture.id, picture);
            const card = draw(picture);
            if (old) cardOf(picture.id).replaceWith(card);
            else tinv.byId("tinv_pictures_list").append(card);
        }
        for (const { name, reason } of reply.refused || []) refuse(name, reason);
        if (reply.message && !(reply.refused || []).length) refuse("", reply.message);
        note();
    }

    const cardOf = (id) => [...tinv.byId("tinv_pictures_list").children].find((card) => card.dataset.id === id);

    function draw(picture) {
        const caption = h("input.tinv-caption", {
            type: "text", placeholder: "Caption (optional)", "aria-label": `Caption of ${picture.name}`,
            title: "Say what is not part of the word: 'on a table'",
            onchange: (event) => keepCaption(picture.id, event.target.value),
        });
        caption.value = picture.caption || "";
        const remove = h("button.tinv-remove", { title: "Remove", "aria-label": `Remove ${picture.name}`, onclick: () => drop(picture.id) }, "×");
        const warnings = (picture.warnings || []).map((text) => h("li", {}, text));
        return h("li.tinv-picture", { "data-id": picture.id },
            h("div.tinv-picture-frame", {}, h("img", { src: picture.thumb, alt: picture.name, loading: "lazy", title: `${picture.name}, ${picture.width}×${picture.height}` }), remove),
            caption, warnings.length ? h("ul.tinv-warnings", {}, ...warnings) : null);
    }

    async function keepCaption(id, text) {
        shown.get(id).caption = text;
        await tell("caption", { id, text });
        changed();
    }

    async function drop(id) {
        const card = cardOf(id);
        const next = card.nextElementSibling || card.previousElementSibling;
        card.remove();
        shown.delete(id);
        note();
        const target = next ? next.querySelector(".tinv-remove") : input();
        target.focus();
        await tell("remove", { id });
        await reload(); // what was the same as this picture no longer is
    }

    async function tell(action, args) {
        try {
            return await tinv.insist(() => tinv.call(action, { draft: pictures.draft, ...args }, { lane: "pictures" }));
        } catch (error) {
            refuse("", error.message);
        }
    }

    async function clear() {
        tinv.memory.set("trained", null); // what comes next is another run's
        waiting = [];
        refused = [];
        await tell("clear", {});
        await reload();
        input().focus();
    }

    async function reload() {
        const reply = await tinv.insist(() => tinv.call("pictures", { draft: pictures.draft }, { lane: "pictures" }));
        const now = new Map((reply.pictures || []).map((picture) => [picture.id, picture]));
        const same = now.size === shown.size && [...now.keys()].every((id) => shown.has(id));
        if (!same || [...now].some(([id, picture]) => String(picture.warnings) !== String(shown.get(id).warnings))) {
            shown.clear();
            tinv.byId("tinv_pictures_list").replaceChildren();
            show(reply);
        }
        note();
        changed();
    }

    function changed() {
        tinv.emit("pictures", shown.size);
        if (tinv.started) tinv.form.changed();
    }

    async function fromFolder() {
        const path = tinv.byId("tinv_folder_path").value.trim();
        if (!path) return tinv.byId("tinv_folder_path").focus();
        const reply = await tell("folder", { path });
        if (reply) { show(reply); changed(); }
    }

    /** The files of a drop, those in dropped folders too. */
    async function filesOf(transfer) {
        const entries = [...(transfer.items || [])].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
        if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
        const walk = async (entry) => {
            if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
            const reader = entry.createReader(), files = [];
            for (let part; (part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length;) {
                for (const inner of part) if (inner.isFile) files.push(...await walk(inner));
            }
            return files;
        };
        return (await Promise.all(entries.map(walk))).flat();
    }

    function listen() {
        input().addEventListener("change", (event) => { addFiles(event.target.files); event.target.value = ""; });
        const place = images();
        const hover = (on) => (event) => {
            if (!event.dataTransfer || ![...event.dataTransfer.types].includes("Files")) return;
            event.preventDefault();
            event.stopPropagation();
            tinv.byId("tinv_drop").classList.toggle("tinv-over", on);
        };
        place.addEventListener("dragenter", hover(true));
        place.addEventListener("dragover", hover(true));
        place.addEventListener("dragleave", hover(false));
        place.addEventListener("drop", async (event) => {
            hover(false)(event);
            if (event.defaultPrevented) addFiles(await filesOf(event.dataTransfer));
        });
        document.addEventListener("paste", (event) => {
            const files = [...((event.clipboardData && event.clipboardData.files) || [])];
            if (files.length && tinv.isShown(place)) addFiles(files);
        });
        tinv.byId("tinv_clear").addEventListener("click", clear);
        const folder = tinv.byId("tinv_folder_add");
        if (folder) {
            folder.addEventListener("click", fromFolder);
            tinv.byId("tinv_folder_path").addEventListener("keydown", (event) => { if (event.key === "Enter") fromFolder(); });
        }
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        pictures.draft = tinv.memory.get("draft", null);
        if (!/^[0-9a-f]{32}$/.test(pictures.draft || "")) {
            pictures.draft = tinv.randomHex();
            tinv.memory.set("draft", pictures.draft);
        }
        listen();
        reload().catch((error) => refuse("", error.message));
    });
})();
