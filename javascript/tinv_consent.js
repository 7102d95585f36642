// "I have permission": shown where the word stands for a person, who has to be asked.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId } = tinv;

    tinv.ready(() =>
        tinv.on("form-checked", (reply) => {
            const wrapper = byId("tinv_consent");
            const isGiven = wrapper.querySelector("input").checked;
            tinv.setHidden(wrapper, !reply.person && !isGiven, "no-person");
        }),
    );
})();
