// "I have permission": shown where the word stands for a person, who has to be asked.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId } = tinv;

    function draw(isPerson) {
        const wrapper = byId("tinv_consent");
        const isGiven = wrapper.querySelector("input").checked;
        tinv.setHidden(wrapper, !isPerson && !isGiven, "no-person");
    }

    tinv.ready(() => {
        draw(false);
        tinv.on("form-checked", (reply) => draw(Boolean(reply.person)));
    });
})();
