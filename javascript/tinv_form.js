// The form: reads and sets its fields through gradio, has Python check them, and remembers them in this browser.
(() => {
    "use strict";
    const { tinv } = window;
    const { byId, h } = tinv;
    const NOT_REMEMBERED = ["overwrite"]; // decided anew each time: an embedding replaced by mistake is gone
    const CUSTOM = "custom"; // the preset of one's own values

    let schema; // from Python: {fields: [{name, id, label, holds, words, start, families}], presets: {key: label}}
    let defaults = {};
    let values = {}; // by field, as last read
    let presetValues = {}; // by preset, its fields' values for the checkpoint's family
    let preset = "balanced";
    let lastNamedPreset = "balanced"; // the last one that was not custom
    let customChosen = false; // by the user, rather than by values that are no preset's
    let readCallbacks = []; // of those who wait for the fields' values
    let pendingWrite = {}; // {fields, preset} that gradio has yet to fetch
    let isRestored = false; // the form holds what this browser remembers
    let changeTimer = null;
    let isChecking = false;
    let checkAgain = false;

    const form = (tinv.form = {
        get values() {
            return values;
        },
        field: (name) => schema.fields.find((field) => field.name === name),
        fields: () => schema.fields,

        /** Called by gradio with the values of all fields, in the schema's order, the preset last. */
        receiveValues(gradioValues) {
            parseValues(gradioValues);
            const callbacks = readCallbacks;
            readCallbacks = [];
            for (const callback of callbacks) callback(values);
            return [];
        },

        /** Called by gradio for what to put into the fields: their values, with what `apply` changes. */
        valuesToWrite(gradioValues) {
            parseValues(gradioValues.slice(0, schema.fields.length + 1));
            Object.assign(values, pendingWrite.fields);
            if (pendingWrite.preset) preset = pendingWrite.preset;
            pendingWrite = {};
            setTimeout(form.onChange, 50);
            return [...schema.fields.map((field) => toGradio(field, values[field.name])), schema.presets[preset]];
        },

        /** Called by gradio, and by whatever else the check depends on. */
        onChange() {
            clearTimeout(changeTimer);
            changeTimer = setTimeout(async () => {
                await form.collect();
                if (!isRestored) return;
                remember();
                tinv.emit("form-changed", values);
                check();
            }, 250);
        },

        /** Resolves to the fields' values now, by name. */
        collect: () =>
            new Promise((resolve) => {
                readCallbacks.push(resolve);
                byId("tinv_read_fields").click();
                setTimeout(() => resolve(values), 2000); // gradio does not listen yet: the values last read
            }),

        /** Puts values into fields; names without a field are ignored. */
        apply(changes, newPreset = null) {
            const known = Object.entries(changes).filter(([name]) => form.field(name));
            const fields = Object.fromEntries(known.map(([name, value]) => [name, tinv.format.fieldText(value)]));
            pendingWrite = { fields: { ...pendingWrite.fields, ...fields }, preset: newPreset || pendingWrite.preset };
            byId("tinv_write_fields").click();
        },

        /** The values as Python takes them: only fields of the checkpoint's family, no empty paths, lines as lists. */
        payload() {
            const sent = {};
            for (const field of schema.fields.filter(tinv.family.has)) {
                const { name, holds } = field;
                const value = values[name];
                if (holds === "lines") sent[name] = tinv.format.lines(value);
                else if (holds === "path" && !String(value).trim()) continue;
                else if (typeof value === "string" && name !== "preview_negative_prompt") sent[name] = value.trim();
                else sent[name] = value;
            }
            return sent;
        },

        /** Puts the values of a training into fields, whatever was chosen before. */
        load(newValues) {
            customChosen = false;
            form.apply(newValues);
        },

        applyPreset(key) {
            if (!presetValues[key]) return;
            const own = { ...values };
            if (preset === CUSTOM)
                tinv.undo.offer("Your own settings are replaced.", () => form.apply(own, CUSTOM));
            lastNamedPreset = key;
            customChosen = false;
            form.apply(presetValues[key], key);
        },

        /** The defaults, but for what says which word is learned. */
        reset: () => form.apply({ ...defaults, name: values.name, init_text: values.init_text, kind: values.kind }),
    });

    // Values in gradio and here. gradio 3.41 knows no labels apart from values, so fields hold the labels.

    const toGradio = (field, value) => field.words[value] || value;
    const fromGradio = (field, value) =>
        Object.keys(field.words).find((key) => field.words[key] === value) || (value ?? "");
    const presetOf = (label) => Object.keys(schema.presets).find((key) => schema.presets[key] === label);

    function parseValues(gradioValues) {
        schema.fields.forEach((field, i) => {
            values[field.name] = fromGradio(field, gradioValues[i]);
        });
        preset = presetOf(gradioValues[schema.fields.length]) || preset;
    }

    // The check by Python

    /** One request at a time; the newest values always get a reply. */
    async function check() {
        if (isChecking) {
            checkAgain = true;
            return;
        }
        isChecking = true;
        do {
            checkAgain = false;
            try {
                const reply = await tinv.retryWhileOffline(() =>
                    tinv.call("check", { form: form.payload(), draft: tinv.pictures.draft }, { timeoutS: 120 }),
                );
                if (!checkAgain) drawCheck(reply);
            } catch (error) {
                console.warn("Textual Inversion: the form could not be checked:", error.message);
            }
        } while (checkAgain);
        isChecking = false;
    }

    function drawCheck(reply) {
        tinv.emit("form-checked", reply);
        tinv.setContent(byId("tinv_estimate"), reply.estimate.text);
        if (!adoptFamilyPreset(reply.preset_values)) drawPresets(reply); // else there is another check
        const nameIsFree = Boolean(reply.name && reply.name.state === "free");
        tinv.problems.showAtFields(reply.problems || [], nameIsFree, reply.missing || []);
    }

    // Presets

    const matches = (some, others) =>
        Object.entries(some).every(([name, value]) => String(others[name]) === String(value));

    /** Presets differ between families: an untouched preset follows a change of the family. Returns whether it did. */
    function adoptFamilyPreset(newPresetValues) {
        if (!newPresetValues) return false;
        const before = presetValues[preset];
        presetValues = newPresetValues;
        const after = presetValues[preset];
        if (!before || !after || customChosen || JSON.stringify(before) === JSON.stringify(after)) return false;
        if (!matches(before, values)) return false;
        form.applyPreset(preset);
        return true;
    }

    function drawPresets(reply) {
        for (const label of document.querySelectorAll("#tinv_preset label")) {
            const input = label.querySelector("input");
            const key = input && presetOf(input.value);
            if (key) drawPresetNote(label, key, reply);
        }
        if (reply.preset && reply.preset !== CUSTOM) {
            if (customChosen) return;
            lastNamedPreset = reply.preset;
        }
        if (reply.preset && reply.preset !== preset) form.apply({}, reply.preset);
        const back = h(
            "button.tinv-link",
            { onclick: () => form.applyPreset(lastNamedPreset) },
            `Back to ${schema.presets[lastNamedPreset]}`,
        );
        byId("tinv_reset_note").replaceChildren(...(reply.preset === CUSTOM ? ["Your own settings. ", back] : []));
    }

    function drawPresetNote(label, key, reply) {
        let note = label.querySelector(".tinv-preset-note");
        if (!note) label.append((note = h("span.tinv-preset-note")));
        const customText = key === CUSTOM && presetValues.balanced ? "your own values" : "";
        tinv.setText(note, (reply.presets && reply.presets[key]) || customText);
    }

    // What this browser remembers

    function remember() {
        const remembered = { ...values };
        for (const name of NOT_REMEMBERED) delete remembered[name];
        tinv.storage.set("form", remembered);
        tinv.storage.set("preset", { key: preset, values: presetValues[preset] });
    }

    /** The preset that was left untouched at the last visit; today's checkpoint may give it other values. */
    function rememberedPreset(rememberedValues) {
        const { key, values: oldPresetValues } = tinv.storage.get("preset", {});
        const isUntouched = oldPresetValues && matches(oldPresetValues, rememberedValues);
        return isUntouched && presetValues[key] ? key : null;
    }

    async function restore() {
        const remembered = tinv.storage.get("form", {});
        const presetKey = rememberedPreset(remembered);
        const wanted = { ...defaults, ...remembered, ...presetValues[presetKey] };
        const current = await form.collect();
        isRestored = true;
        // not into fields that somebody has typed in while this was loading
        const outdated = schema.fields.filter(({ name, start }) => current[name] === start && wanted[name] !== start);
        form.apply(Object.fromEntries(outdated.map(({ name }) => [name, wanted[name]])), presetKey);
    }

    tinv.ready(async () => {
        schema = JSON.parse(byId("tinv_schema").dataset.schema);
        defaults = Object.fromEntries(schema.fields.map((field) => [field.name, field.start]));
        values = { ...defaults };
        document.addEventListener("change", (event) => {
            if (!event.target.closest || !event.target.closest("#tinv_preset")) return;
            const key = presetOf(event.target.value);
            if (key === CUSTOM) customChosen = true;
            else form.applyPreset(key);
        });
        const reply = await tinv.retryWhileOffline(() => tinv.call("form"));
        presetValues = reply.presets || {};
        tinv.family.follow(reply.checkpoint);
        defaults = { ...defaults, ...reply.values };
        for (const name of Object.keys(defaults)) defaults[name] = tinv.format.fieldText(defaults[name]);
        tinv.host = { opensFolders: reply.opens_folders, captioners: reply.captioners };
        await restore();
        for (const event of ["runs-listed", "run-ended", "embeddings-changed"])
            tinv.on(event, form.onChange); // a name may be free now, or taken
        tinv.emit("form-ready");
    });
})();
