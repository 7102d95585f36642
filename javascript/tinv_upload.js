// Files on their way to the server: dropped, chosen, pasted, or from a folder of the server; one after another.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const LARGEST = 100e6; // bytes
    let waiting = [];
    let begun = 0;
    let total = 0;
    let silent = false; // nobody answers
    let work = null; // the promise of the files at work

    const uploads = (tinv.uploads = {
        add(files) {
            for (const file of [...files].sort(byTurn)) {
                if (file.size > LARGEST) tinv.pictures.refuse(file.name, "larger than 100 MB; save it smaller");
                else if (turn(file) === 0 && file.type && !file.type.startsWith("image/"))
                    tinv.pictures.refuse(file.name, "not a picture");
                else waiting.push(file);
            }
            total = begun + waiting.length;
            if (waiting.length && !work) work = everything();
            tinv.pictures.note();
        },

        /** Drop what has not begun. */
        cancel() {
            waiting = [];
            total = begun;
        },

        done: () => work || Promise.resolve(),

        /** "Adding 12 of 300", as elements; nothing while nothing is added. */
        progress() {
            if (!work) return [];
            const text = silent
                ? ["The WebUI does not answer; trying again"]
                : tinv.words("Adding {} of {}", Math.max(1, begun), total);
            const cancel = tinv.h("button.tinv-link", { onclick: () => uploads.cancel() }, "Cancel");
            return [tinv.h("div", {}, ...text, " ", waiting.length ? cancel : "")];
        },
    });

    /** Pictures first, then what goes with them: masks, captions. */
    const turn = ({ name }) => (/\.txt$/i.test(name) ? 2 : /\.mask\.png$/i.test(name) ? 1 : 0);
    const byTurn = (a, b) => turn(a) - turn(b) || a.name.localeCompare(b.name, undefined, { numeric: true });

    async function everything() {
        await null; // so that `work` is set
        while (waiting.length) {
            const file = waiting.shift();
            begun += 1;
            tinv.pictures.note();
            await one(file);
        }
        work = null;
        begun = total = 0;
        tinv.pictures.note();
        tinv.announce(`${tinv.pictures.count} pictures`);
        tinv.pictures.changed();
    }

    async function one(file) {
        const away = () => {
            silent = true;
            tinv.pictures.note();
        };
        try {
            const path = await tinv.insist(() => tinv.upload(file), away);
            silent = false;
            const args = { draft: tinv.pictures.draft, path, name: file.name };
            tinv.pictures.show(await tinv.call("add", args, { lane: "pictures", seconds: 120 }));
        } catch (error) {
            tinv.pictures.refuse(file.name, error.message);
        }
    }

    async function fromFolder() {
        const field = tinv.byId("tinv_folder_path");
        const path = field.value.trim();
        if (!path) return field.focus();
        const reply = await tinv.pictures.tell("folder", { path });
        if (!reply) return;
        tinv.pictures.show(reply);
        tinv.pictures.changed();
    }

    /** The files of a drop, those in dropped folders too. */
    async function filesOf(transfer) {
        const items = [...(transfer.items || [])];
        const entries = items.map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
        if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
        return (await Promise.all(entries.map(filesIn))).flat();
    }

    async function filesIn(entry) {
        if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
        const reader = entry.createReader();
        const files = [];
        for (;;) {
            const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // some at a time
            if (!part.length) return files;
            for (const inner of part.filter((one) => one.isFile)) files.push(...(await filesIn(inner)));
        }
    }

    function listen() {
        const place = tinv.byId("tinv_images");
        place.querySelector("input[type=file]").addEventListener("change", (event) => {
            uploads.add(event.target.files);
            event.target.value = "";
        });
        const over = (on) => (event) => {
            if (!event.dataTransfer || ![...event.dataTransfer.types].includes("Files")) return false;
            event.preventDefault();
            event.stopPropagation(); // the hosts take dropped pictures for their own fields
            tinv.byId("tinv_drop").classList.toggle("tinv-over", on);
            return true;
        };
        place.addEventListener("dragenter", over(true));
        place.addEventListener("dragover", over(true));
        place.addEventListener("dragleave", over(false));
        place.addEventListener("drop", async (event) => {
            if (over(false)(event)) uploads.add(await filesOf(event.dataTransfer));
        });
        document.addEventListener("paste", (event) => {
            const files = [...((event.clipboardData && event.clipboardData.files) || [])];
            if (files.length && tinv.isShown(place)) uploads.add(files);
        });
        const folder = tinv.byId("tinv_folder_add");
        if (!folder) return; // the server's folders are none of the browser's business
        folder.addEventListener("click", fromFolder);
        tinv.byId("tinv_folder_path").addEventListener("keydown", (event) => {
            if (event.key === "Enter") fromFolder();
        });
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(listen);
})();
