// The pictures that the followed run learns from, in a strip above its previews, to compare with.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    let drawnUrls = [];

    tinv.ownPictures = {
        get urls() {
            return drawnUrls;
        },
    };

    function draw(urls) {
        if (String(urls) === String(drawnUrls)) return;
        drawnUrls = urls;
        tinv.emit("own-pictures-loaded");
        const element = byId("tinv_own_pictures");
        tinv.setHidden(element, !urls.length);
        const image = (src, i) => h("li", {}, h("img", { src, alt: `Your picture ${i + 1}`, loading: "lazy" }));
        element.replaceChildren(h("h4", {}, "Your pictures"), h("ul", { role: "list" }, ...urls.map(image)));
    }

    /** A run that has not kept its pictures does without. */
    async function load(id) {
        draw(id && id === tinv.storage.get("trained") ? tinv.pictures.thumbnails : []); // at hand, so at once
        if (!id) return;
        try {
            const reply = await tinv.call("run_pictures", { run: id }, { queue: "preview" });
            if (tinv.run.id === id) draw(reply.pictures);
        } catch (error) {
            console.info("Textual Inversion: no pictures of this run:", error.message);
        }
    }

    tinv.ready(() => tinv.on("run-followed", load));
})();
