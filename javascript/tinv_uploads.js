// Files on their way to the server, one after another: dropped, chosen, pasted, or from a folder of the server.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId } = tinv;
    const LARGEST_BYTES = 100e6;
    let waiting = []; // files
    let startedCount = 0;
    let totalCount = 0;
    let offline = false;
    let processing = null; // the promise of the files under way

    const uploads = (tinv.uploads = {
        add(files) {
            tinv.undo.dismiss();
            for (const file of [...files].sort(inUploadOrder)) {
                if (file.size > LARGEST_BYTES)
                    tinv.pictures.refuse(file.name, "larger than 100 MB; save it smaller");
                else if (uploadRank(file) === 0 && file.type && !file.type.startsWith("image/"))
                    tinv.pictures.refuse(file.name, "not a picture");
                else waiting.push(file);
            }
            totalCount = startedCount + waiting.length;
            if (waiting.length && !processing) processing = processQueue();
            tinv.pictures.drawNote();
        },

        /** Drops the files that have not been started. */
        cancel() {
            waiting = [];
            totalCount = startedCount;
        },

        done: () => processing || Promise.resolve(),

        /** "Adding 12 of 300", as elements; none while nothing is added. */
        progress() {
            if (!processing) return [];
            const text = offline
                ? ["Lost contact with the WebUI. Reconnecting…"]
                : tinv.phrase("Adding {} of {}", Math.max(1, startedCount), totalCount);
            const cancel = tinv.h("button.tinv-link", { onclick: uploads.cancel }, "Cancel");
            return [tinv.h("div", {}, ...text, " ", waiting.length ? cancel : "")];
        },
    });

    /** Pictures first, then their masks, then their captions. */
    const uploadRank = ({ name }) =>
        /\.(txt|caption|cap)$/i.test(name) ? 2 : /(\.mask|-masklabel)\.(png|webp|jpe?g|bmp|tiff?)$/i.test(name) ? 1 : 0;
    const inUploadOrder = (a, b) =>
        uploadRank(a) - uploadRank(b) || a.name.localeCompare(b.name, undefined, { numeric: true });

    async function processQueue() {
        await null; // so that `processing` is set
        while (waiting.length) {
            const file = waiting.shift();
            startedCount += 1;
            tinv.pictures.drawNote();
            await process(file);
        }
        processing = null;
        startedCount = totalCount = 0;
        tinv.pictures.drawNote();
        tinv.announce(`${tinv.pictures.count} pictures`);
        tinv.pictures.notifyChanged();
    }

    async function process(file) {
        const onOffline = () => {
            offline = true;
            tinv.pictures.drawNote();
        };
        try {
            const path = await tinv.retryWhileOffline(() => tinv.uploadFile(file), onOffline);
            offline = false;
            const args = { draft: tinv.pictures.draft, path, name: file.name };
            tinv.pictures.addReply(await tinv.call("add", args, { queue: "pictures", timeoutS: 120 }));
        } catch (error) {
            tinv.pictures.refuse(file.name, error.message);
        }
    }

    async function addServerFolder() {
        const field = byId("tinv_folder_path");
        const path = field.value.trim();
        if (!path) return field.focus();
        const reply = await tinv.pictures.change("folder", { path });
        if (!reply) return;
        tinv.pictures.addReply(reply);
        tinv.pictures.notifyChanged();
    }

    // Drag and drop

    /** The files of a drop, with those in dropped folders. */
    async function filesOf(dataTransfer) {
        const items = [...(dataTransfer.items || [])];
        const entries = items.map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
        if (!entries.some((entry) => entry.isDirectory)) return [...dataTransfer.files];
        return (await Promise.all(entries.map(filesOfEntry))).flat();
    }

    /** Of a dropped folder, the files in it and in its folders; hidden ones are left out. */
    async function filesOfEntry(entry) {
        if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
        const reader = entry.createReader();
        const files = [];
        for (;;) {
            const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // some at a time
            if (!batch.length) return files;
            for (const inner of batch.filter((other) => !/^(\.|__MACOSX$)/.test(other.name)))
                files.push(...(await filesOfEntry(inner)));
        }
    }

    /** Takes part in a drag of files, and keeps it from the hosts, which use dropped images for fields of their own. */
    function acceptDrag(event, isOver) {
        if (!event.dataTransfer || ![...event.dataTransfer.types].includes("Files")) return false;
        event.preventDefault();
        event.stopPropagation();
        byId("tinv_drop").classList.toggle("tinv-drag-over", isOver);
        return true;
    }

    tinv.ready(() => {
        const box = byId("tinv_images");
        box.querySelector("input[type=file]").addEventListener("change", (event) => {
            uploads.add(event.target.files);
            event.target.value = "";
        });
        box.addEventListener("dragenter", (event) => acceptDrag(event, true));
        box.addEventListener("dragover", (event) => acceptDrag(event, true));
        box.addEventListener("dragleave", (event) => acceptDrag(event, false));
        box.addEventListener("drop", async (event) => {
            if (acceptDrag(event, false)) uploads.add(await filesOf(event.dataTransfer));
        });
        document.addEventListener("paste", (event) => {
            const files = [...((event.clipboardData && event.clipboardData.files) || [])];
            if (files.length && tinv.isVisible(box)) uploads.add(files);
        });
        const addFolderButton = byId("tinv_folder_add");
        if (!addFolderButton) return; // the WebUI does not show its files
        addFolderButton.addEventListener("click", addServerFolder);
        byId("tinv_folder_path").addEventListener("keydown", (event) => {
            if (event.key === "Enter") addServerFolder();
        });
    });
})();
