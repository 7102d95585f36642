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

        async addExample() {
            const reply = await call("example");
            await reload();
            return reply;
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
        const neighbour = card.nextElementSibling || card.previousElementSibling;
        card.remove();
        byPictureId.delete(id);
        drawNote();
        (neighbour ? neighbour.querySelector(".tinv-thumb") : fileInput()).focus();
        const reply = await change("remove", { id });
        if (reply && reply.pictures) showExactly(reply.pictures); // warnings of its duplicates may be gone
        if (reply) summary = reply.summary || "";
        drawNote();
        notifyChanged();
    }

    async function removeAll() {
        tinv.storage.set("trained", null); // the next pictures are not those of the last training
        tinv.uploads.cancel();
        refusals = [];
        await change("clear");
        await reload();
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
            const same = (key) => String(old[key] || "") === String(picture[key] || "");
            return !old || !["thumb", "caption", "warnings"].every(same);
        };
        addReply({ pictures: newPictures.filter(isOutdated) });
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

    tinv.ready(() => {
        pictures.draft = tinv.storage.get("draft", null);
        if (!/^[0-9a-f]{32}$/.test(pictures.draft || "")) {
            pictures.draft = tinv.randomHex();
            tinv.storage.set("draft", pictures.draft);
        }
        byId("tinv_clear").addEventListener("click", removeAll);
        reload().catch((error) => refuse("", error.message));
    });
})();
