// This window beside others: it finds the tab that was open again, and shares its pictures with no other window.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId } = tinv;
    const ANSWER_MS = 150; // that another window has for saying that it uses a draft
    const PANELS = ["tab_textual_inversion", "tab_txt2img"];
    const id = tinv.randomHex();
    let channel = null;
    let isHeld = false; // by another window: the draft that was asked for

    tinv.window = {
        /** The draft for this window: the given one, or a copy of it where another window uses that. */
        async ownDraft(draft) {
            if (!channel) return draft;
            isHeld = false;
            channel.postMessage({ asks: draft, from: id });
            await new Promise((resolve) => setTimeout(resolve, ANSWER_MS));
            return isHeld ? (await tinv.retryWhileOffline(() => tinv.call("duplicate", { draft }))).draft : draft;
        },
    };

    function onMessage({ data }) {
        if (data.asks && data.from !== id && data.asks === tinv.pictures.draft)
            channel.postMessage({ holds: data.asks, to: data.from });
        if (data.holds && data.to === id) isHeld = true;
    }

    // The tab that was open

    const shownPanel = () => PANELS.find((panel) => byId(panel) && byId(panel).offsetParent !== null);

    function rememberPanel() {
        setTimeout(() => {
            const panel = shownPanel();
            tinv.storage.set("panel", panel || "");
        }, 300); // gradio shows the tab first
    }

    function restorePanel() {
        const panel = tinv.storage.get("panel", "");
        if (PANELS.includes(panel) && panel !== shownPanel()) tinv.txt2img.openTab(panel);
    }

    try {
        channel = new BroadcastChannel("tinv");
        channel.onmessage = onMessage;
    } catch {
        // an old browser: two windows share their pictures
    }

    tinv.ready(() => {
        restorePanel();
        const onClick = (event) => {
            if (event.target.closest && event.target.closest("[role=tablist], .tab-nav")) rememberPanel();
        };
        document.addEventListener("click", onClick, true); // while capturing: gradio draws the tabs anew on a click
    });
})();
