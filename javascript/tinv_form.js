// The form: reads and sets its fields through gradio, has Python check them, and remembers them in this browser.
(() => {
    "use strict";
    const tinv = (window.tinv = window.tinv || {});
    const FORGOTTEN = ["overwrite"]; // asked for anew each time: a word replaced by mistake is gone
    let schema,
        values = {},
        preset = "balanced",
        lastPreset = "balanced",
        presets = {},
        defaults = {};
    let readers = [],
        pending = {},
        timer = null,
        checking = false,
        checkAgain = false,
        ready = false,
        customByHand = false;

    const form = (tinv.form = {
        get values() {
            return values;
        },
        get preset() {
            return preset;
        },
        field: (name) => schema.fields.find((field) => field.name === name),
        names: () => schema.fields.map((field) => field.name),

        /** gradio hands over the values of all fields, in the schema's order, the preset last. */
        read(all) {
            take(all);
            for (const reader of readers.splice(0)) reader(values);
            return [];
        },

        /** gradio asks what to put into the fields: what is there, with what `apply` wants changed. */
        write(all) {
            const count = schema.fields.length + 1;
            take(all.slice(0, count));
            Object.assign(values, pending.fields);
            if (pending.preset) preset = pending.preset;
            pending = {};
            setTimeout(form.changed, 50);
            return [...schema.fields.map((field) => shown(field, values[field.name])), schema.presets[preset]];
        },

        changed() {
            clearTimeout(timer);
            timer = setTimeout(async () => {
                await form.collect();
                settled();
            }, 250);
        },

        /** The values as they are now, by name. */
        collect: () =>
            new Promise((resolve) => {
                readers.push(resolve);
                tinv.byId("tinv_read_fields").click();
                setTimeout(() => resolve(values), 2000); // gradio is not listening yet: what was known last
            }),

        /** Put values into fields. */
        apply(changes, newPreset = null) {
            const known = Object.entries(changes).filter(([name]) => form.field(name));
            pending = {
                fields: { ...pending.fields, ...Object.fromEntries(known.map(([n, v]) => [n, plain(v)])) },
                preset: newPreset || pending.preset,
            };
            tinv.byId("tinv_write_fields").click();
        },

        /** What Python takes: lists for fields of several lines, no empty paths, nothing the checkpoint's family lacks. */
        payload(of = values) {
            const sent = {};
            for (const field of schema.fields) {
                if (!tinv.family.has(field)) continue;
                const { name, holds } = field;
                const value = of[name];
                if (holds === "lines")
                    sent[name] = String(value)
                        .split("\n")
                        .map((line) => line.trim())
                        .filter(Boolean);
                else if (holds === "path" && !String(value).trim()) continue;
                else
                    sent[name] = typeof value === "string" && name !== "preview_negative_prompt" ? value.trim() : value;
            }
            return sent;
        },

        applyPreset(key) {
            if (!presets[key]) return;
            lastPreset = key;
            customByHand = false;
            form.apply(presets[key], key);
        },
        reset: () => form.apply({ ...defaults, name: values.name, init_text: values.init_text, kind: values.kind }),
        check,
    });

    function take(all) {
        schema.fields.forEach((field, i) => {
            values[field.name] = meant(field, all[i]);
        });
        preset = Object.keys(schema.presets).find((key) => schema.presets[key] === all[schema.fields.length]) || preset;
    }

    const shown = (field, value) => field.words[value] || value;
    const meant = (field, value) => Object.keys(field.words).find((key) => field.words[key] === value) || (value ?? "");
    const plain = (value) =>
        Array.isArray(value) ? value.join("\n") : typeof value === "number" ? String(value) : value;

    function settled() {
        if (!ready) return;
        const kept = { ...values };
        for (const name of FORGOTTEN) delete kept[name];
        tinv.memory.set("form", kept);
        tinv.memory.set("preset", { key: preset, values: presets[preset] });
        tinv.emit("form", values);
        check();
    }

    /** Have Python look at the form; one question at a time, and the newest form always gets its answer. */
    async function check() {
        if (checking) {
            checkAgain = true;
            return;
        }
        checking = true;
        do {
            checkAgain = false;
            try {
                const reply = await tinv.insist(() =>
                    tinv.call("check", { form: form.payload(), draft: tinv.pictures.draft }, { seconds: 120 }),
                );
                if (!checkAgain) show(reply);
            } catch (error) {
                console.warn("Textual Inversion: the form could not be checked:", error.message);
            }
        } while (checkAgain);
        checking = false;
    }

    function show(reply) {
        tinv.emit("checked", reply);
        tinv.fill(tinv.byId("tinv_estimate"), reply.estimate.text);
        showPresets(reply);
        tinv.problems.atFields(reply.problems || [], Boolean(reply.name && reply.name.state === "free"));
    }

    /** A preset's values are those of the checkpoint's family: with another family, the form follows. */
    function followFamily(reply) {
        if (!reply.preset_values) return false;
        const before = presets[preset];
        presets = reply.preset_values;
        if (!before || !presets[preset] || customByHand || same(before, presets[preset])) return false;
        if (!Object.entries(before).every(([name, value]) => String(values[name]) === value)) return false;
        form.applyPreset(preset);
        return true;
    }

    const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

    function showPresets(reply) {
        if (followFamily(reply)) return; // it is asked for again
        const labels = document.querySelectorAll("#tinv_preset label");
        for (const label of labels) {
            const input = label.querySelector("input");
            const key = input && Object.keys(schema.presets).find((k) => schema.presets[k] === input.value);
            if (!key) continue;
            let note = label.querySelector(".tinv-preset-note");
            if (!note) label.append((note = tinv.h("span.tinv-preset-note")));
            const own = key === "custom" && presets.balanced ? "your own values" : "";
            const text = (reply.presets && reply.presets[key]) || own;
            if (note.textContent !== text) note.textContent = text;
        }
        if (reply.preset && reply.preset !== "custom" && customByHand) return;
        if (reply.preset && reply.preset !== "custom") lastPreset = reply.preset;
        if (reply.preset && reply.preset !== preset) form.apply({}, reply.preset);
        const back = tinv.h(
            "button.tinv-link",
            { onclick: () => form.applyPreset(lastPreset) },
            `Back to ${schema.presets[lastPreset]}`,
        );
        tinv.byId("tinv_reset_note").replaceChildren(
            ...(reply.preset === "custom" ? ["Your own settings. ", back] : []),
        );
    }

    /** The preset whose values were kept; it may have others for the checkpoint that is selected today. */
    function keptPreset(kept) {
        const { key, values: then } = tinv.memory.get("preset", {});
        const untouched = then && Object.entries(then).every(([name, value]) => String(kept[name]) === value);
        return untouched && presets[key] ? key : null;
    }

    tinv.starters = tinv.starters || [];
    tinv.starters.push(async () => {
        schema = JSON.parse(tinv.byId("tinv_schema").dataset.schema);
        defaults = Object.fromEntries(schema.fields.map((field) => [field.name, field.start]));
        values = { ...defaults };
        document.addEventListener("change", (event) => {
            if (!event.target.closest || !event.target.closest("#tinv_preset")) return;
            const key = Object.keys(schema.presets).find((k) => schema.presets[k] === event.target.value);
            if (key === "custom") customByHand = true;
            else form.applyPreset(key);
        });
        const reply = await tinv.insist(() => tinv.call("form"));
        presets = reply.presets || {};
        tinv.family.follow(reply.checkpoint);
        defaults = { ...defaults, ...reply.values };
        for (const name of Object.keys(defaults)) defaults[name] = plain(defaults[name]);
        tinv.host = { hidesPaths: reply.hides_paths, title: reply.host, example: reply.example };
        const kept = tinv.memory.get("form", {});
        const before = keptPreset(kept);
        const wanted = { ...defaults, ...kept, ...presets[before] };
        const now = await form.collect(); // somebody may have typed while this was loading
        ready = true;
        const stale = schema.fields.filter(({ name, start }) => now[name] === start && wanted[name] !== start);
        form.apply(Object.fromEntries(stale.map(({ name }) => [name, wanted[name]])), before);
        for (const event of ["runs", "ended", "library"]) tinv.on(event, form.changed); // a name may be free now, or taken
        tinv.emit("ready");
    });
})();
