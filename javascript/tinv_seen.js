// "What the trainer sees": the pictures as they are cropped and masked. Asked for only while it is open.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    let asked = 0,
        timer = null;

    function picture({ name, width, height, image, mask }) {
        const size = `${width}×${height}`;
        const frame = tinv.h(
            "div.tinv-crop",
            {},
            tinv.h("img", { src: image, alt: `${name}, as it is trained on`, loading: "lazy" }),
        );
        if (mask) frame.append(tinv.h("img", { src: mask, alt: `Mask of ${name}: white counts`, loading: "lazy" }));
        return tinv.h("li", {}, frame, tinv.h("div.tinv-hint", { title: name }, size));
    }

    async function refresh() {
        if (!tinv.byId("tinv_seen").open) return;
        const place = tinv.byId("tinv_crops"),
            mine = ++asked;
        if (!tinv.pictures.count)
            return tinv.fill(place, tinv.h("p.tinv-hint", {}, "Add pictures to see how they are cropped."));
        place.setAttribute("aria-busy", "true");
        try {
            const { crops } = await tinv.call(
                "crops",
                { draft: tinv.pictures.draft, form: tinv.form.payload() },
                { lane: "crops", seconds: 120 },
            );
            if (mine === asked)
                place.replaceChildren(
                    tinv.h(
                        "ul.tinv-crops",
                        { "aria-label": "Pictures as the trainer sees them" },
                        ...crops.map(picture),
                    ),
                );
        } catch (error) {
            if (mine === asked) tinv.fill(place, tinv.h("p.tinv-hint", {}, tinv.sentence(error.message)));
        }
        if (mine === asked) place.removeAttribute("aria-busy");
    }

    const later = () => {
        clearTimeout(timer);
        timer = setTimeout(refresh, 600);
    };

    tinv.starters = tinv.starters || [];
    tinv.starters.push(() => {
        tinv.byId("tinv_seen").addEventListener("toggle", refresh);
        tinv.on("pictures", later);
        tinv.on("form", later);
    });
})();
