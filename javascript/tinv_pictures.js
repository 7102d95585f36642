// The pictures to learn from, as the server holds them in this page's draft: shown, captioned, removed.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const FEWEST_GOOD = 4;
    const MOST_USEFUL = 30;
    const byPictureId = new Map(); // id → picture, in order
    let refusals = []; // [{name, reason}]
    let summary = ""; // of what is used and what is not, as the server says
    let lastChange = Promise.resolve(); // of what the server was sent

    const pictures = (tinv.pictures = {
        draft: null, // the draft's id, which this browser keeps
        get count() {
            return byPictureId.size;
        },
        get thumbnails() {
            return [...byPictureId.values()].map((picture) => picture.thumb);
        },
        addReply,
        refuse,
        drawNote,
        notifyChanged,
        change,

        /** Resolves once the server has every picture and caption that the page has. */
        async saved() {
            await tinv.uploads.done();
            await lastChange;
        },

        /** Shows the pictures as the server has them now. */
        reload: () => reload(),

        /** Replaces the pictures with those of an earlier run. */
        async reuse(run) {
            await call("reuse", { run });
            await reload();
        },

        /** Replaces the pictures with those of the example. */
        async useExample() {
            const reply = await call("example");
            await reload();
            return reply;
        },

        /** Undoes the last removal or replacement. */
        async undo() {
            await call("undo");
            await reload();
        },
    });

    const list = () => byId("tinv_pictures_list");
    const cardOf = (id) => [...list().children].find((card) => card.dataset.id === id);
    const fileInput = () => byId("tinv_images").querySelector("input[type=file]");

    // The server's draft

    const call = (action, args = {}) =>
        tinv.call(action, { draft: pictures.draft, ...args }, { queue: "pictures", timeoutS: 300 });

    /** Sends a change, repeated until it arrives: losing one would go unnoticed. */
    function change(action, args = {}) {
        lastChange = tinv.retryWhileOffline(() => call(action, args)).catch((error) => refuse("", error.message));
        return lastChange;
    }

    async function saveCaption(id, text) {
        if (byPictureId.has(id)) byPictureId.get(id).caption = text;
        const reply = await change("caption", { id, text });
        if (reply) addReply(reply);
        notifyChanged();
    }

    async function remove(id) {
        const card = cardOf(id);
        const { name } = byPictureId.get(id);
        const neighbour = card.nextElementSibling || card.previousElementSibling;
        card.remove();
        byPictureId.delete(id);
        drawNote();
        (neighbour ? neighbour.querySelector(".tinv-thumb") : fileInput()).focus();
        const reply = await change("remove", { id });
        if (reply && reply.pictures) showExactly(reply.pictures); // warnings of its duplicates may be gone
        if (reply) summary = reply.summary || "";
        drawNote();
        if (reply) tinv.undo.offer(`${name} is removed.`, pictures.undo);
        notifyChanged();
    }

    async function removeAll() {
        const trained = tinv.storage.get("trained", null);
        const { count } = pictures;
        tinv.storage.set("trained", null); // the next pictures are not those of the last training
        tinv.uploads.cancel();
        refusals = [];
        const reply = await change("clear");
        await reload();
        if (reply)
            tinv.undo.offer(count === 1 ? "1 picture is removed." : `${count} pictures are removed.`, async () => {
                tinv.storage.set("trained", trained);
                await pictures.undo();
            });
        fileInput().focus();
    }

    async function reload() {
        const reply = await tinv.retryWhileOffline(() => call("pictures"));
        showExactly(reply.pictures || []);
        summary = reply.summary || "";
        drawNote();
        notifyChanged();
    }

    function notifyChanged() {
        tinv.emit("pictures-changed");
        tinv.form.onChange();
    }

    // Drawing

    /** Adds to the list, or updates, what a reply holds. */
    function addReply(reply) {
        for (const picture of reply.pictures || []) {
            const card = cardOf(picture.id);
            byPictureId.set(picture.id, picture);
            if (card) card.replaceWith(pictureCard(picture));
            else list().append(pictureCard(picture));
        }
        if ("summary" in reply) summary = reply.summary;
        for (const { name, reason } of reply.refused || []) refuse(name, reason);
        drawNote();
    }

    /** Cards that are up to date stay, with what is being typed in them. */
    function showExactly(newPictures) {
        const newIds = new Set(newPictures.map((picture) => picture.id));
        for (const id of [...byPictureId.keys()].filter((oldId) => !newIds.has(oldId))) {
            byPictureId.delete(id);
            cardOf(id).remove();
        }
        const isOutdated = (picture) => {
            const old = byPictureId.get(picture.id);
            const differs = (key) => String(old[key] || "") !== String(picture[key] || "");
            return !old || ["thumb", "caption", "warnings"].some(differs);
        };
        addReply({ pictures: newPictures.filter(isOutdated) });
        const cards = newPictures.map((picture) => cardOf(picture.id));
        if (cards.some((card, i) => list().children[i] !== card)) list().append(...cards); // one came back from in between
    }

    function pictureCard(picture) {
        const { id } = picture;
        return tinv.pictureCard(picture, { onCaption: (text) => saveCaption(id, text), onRemove: () => remove(id) });
    }

    /** Says why something was not added. */
    function refuse(name, reason) {
        refusals.push({ name, reason });
        tinv.announce(`Not added: ${name} ${reason}`);
        drawNote();
    }

    /** The note above the list: progress of the uploads or the count, and what was refused. */
    function drawNote() {
        const { count } = pictures;
        const note = [...tinv.uploads.progress()];
        if (!note.length && (count || summary)) note.push(countLine(count));
        if (refusals.length) note.push(refusalCard());
        byId("tinv_pictures_note").replaceChildren(...note);
        tinv.setHidden(byId("tinv_clear"), !(count || summary));
        byId("tinv_images").classList.toggle("tinv-has-pictures", count > 0);
    }

    function countLine(count) {
        const counted = count === 1 ? ["1 picture."] : tinv.phrase("{} pictures.", count);
        const text = summary ? [`${summary}.`] : counted;
        let advice = [];
        if (count < FEWEST_GOOD) advice = tinv.phrase(" Add {} more for a good result.", FEWEST_GOOD - count);
        else if (count > MOST_USEFUL) advice = tinv.phrase(" The best {} would do as well, sooner.", MOST_USEFUL);
        return h("div", {}, ...text, ...advice);
    }

    function refusalCard() {
        const dismiss = () => {
            refusals = [];
            drawNote();
        };
        const items = refusals.map(({ name, reason }) =>
            h("li", {}, name ? h("b", {}, name) : null, name ? ": " : "", tinv.format.sentence(reason)),
        );
        return h(
            "div.tinv-card.tinv-warning",
            {},
            h("strong", {}, "Not added:"),
            h("ul", {}, ...items),
            h("button.tinv-link", { onclick: dismiss }, "Dismiss"),
        );
    }

    /** The draft of this window; two windows would overwrite each other's pictures. */
    async function openDraft() {
        const stored = tinv.storage.get("draft", null);
        const isValid = /^[0-9a-f]{32}$/.test(stored || "");
        pictures.draft = isValid ? stored : tinv.randomHex();
        if (isValid) pictures.draft = await tinv.window.ownDraft(stored);
        tinv.storage.set("draft", pictures.draft);
        await reload();
    }

    tinv.ready(() => {
        byId("tinv_clear").addEventListener("click", removeAll);
        openDraft().catch((error) => refuse("", error.message));
    });
})();
