// What the browser keeps of this tab's visit, so that a page which comes back, after a reload, a lost connection or in
// another language, goes on with it: the server's record of it with the tab, photo, downloads and several photos in a
// database, for a day.
window.keeping = (() => {
  const DAY = 24 * 3600 * 1000;
  const put = (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* not allowed here */ } };
  const get = (key) => { try { return sessionStorage.getItem(key) ?? ""; } catch { return ""; } };
  const ask = (mode, question) => new Promise((done, failed) => {
    setTimeout(() => failed(new Error("The browser's database does not answer.")), 5000);
    const opening = indexedDB.open("dystyle", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("photos");
    opening.onerror = failed;
    opening.onsuccess = () => {
      try {
        const asked = question(opening.result.transaction("photos", mode).objectStore("photos"));
        asked.onsuccess = () => done(asked.result);
        asked.onerror = failed;
      } catch (error) {
        failed(error);
      }
      opening.result.close();  // once the question is answered
    };
  });
  // Nothing here may keep the page from working where a browser keeps nothing.
  const carefully = (work) => work().catch((error) => { console.info("Nothing is kept:", error); return null; });

  const address = (path) => `${window.gradio_config.root}/gradio_api/${path}`;
  const upload = async (file) => {
    const form = new FormData();
    form.append("files", file, file.name);
    const answer = await fetch(address("upload"), { method: "POST", body: form }), said = await answer.json();
    if (!answer.ok) throw new Error(said.error);
    return said[0];
  };
  const forgetOld = async () => {
    for (const key of await ask("readonly", (photos) => photos.getAllKeys())) {
      const { when } = await ask("readonly", (photos) => photos.get(key));
      if (when < Date.now() - DAY) await ask("readwrite", (photos) => photos.delete(key));
    }
  };

  // An edit that is still on its way when the page goes: where the sliders stand.
  let met = false;
  addEventListener("pagehide", () => {
    if (!met) return;
    const sliders = [...document.querySelectorAll("#attributes input[type=range]")];
    const values = sliders.map((slider) => [slider.closest(".attribute").id.slice("attribute-".length), Number(slider.value)]);
    put("sliders", JSON.stringify(Object.fromEntries(values)));
  });

  const read = (key) => JSON.parse(get(key) || "{}");
  const forget = (key) => key && carefully(() => ask("readwrite", (photos) => photos.delete(key)));
  const whom = ({ people }) => people.at(-1).photo ?? people.at(-1).seed;
  const worth = ({ people }) => people.at(-1).photo || people.some((person) => person.history.length > 1);

  return {
    upload,
    // Keeps the visit as the server describes it, and its photo if that is a new one: `photo` says under which key
    // the file lies that was uploaded to `path`. Somebody else's visit before it is kept, too, as `earlier`.
    keep: (text) => {
      met = true;
      const record = JSON.parse(text), before = read("record"), known = read("photo"), earlier = read("earlier");
      put("record", text);
      if (before.people && whom(before) !== whom(record) && worth(before)) {
        forget(earlier.photo?.key);
        put("earlier", JSON.stringify({ record: before, photo: known }));
      } else if (known.key && record.path !== known.path) {
        forget(known.key);
      }
      document.documentElement.classList.toggle("earlier", Boolean(get("earlier")));
      if (record.path === (known.path ?? null)) return;
      put("photo", "");
      if (!record.path) return;
      const key = `${Date.now()}-${Math.random()}`;
      put("photo", JSON.stringify({ path: record.path, key }));
      carefully(async () => {
        const answer = await fetch(address("file=") + encodeURI(record.path).replace(/[?#]/g, encodeURIComponent));
        const file = new File([await answer.blob()], record.path.split(/[\\/]/).pop());
        await ask("readwrite", (photos) => photos.put({ file, when: Date.now() }, key));
      });
    },
    // The server has let go of the visit: a page that has met somebody comes back with them.
    lost: () => { if (met) location.reload(); },
    // Goes back to the visit before, and forth again.
    back: () => {
      const earlier = read("earlier");
      put("earlier", JSON.stringify({ record: read("record"), photo: read("photo") }));
      put("record", JSON.stringify(earlier.record));
      put("photo", JSON.stringify(earlier.photo));
      met = false;
      location.reload();
    },
    // Further things of this tab, in lists: what was downloaded, several photos. Each has a file, and maybe more; `keep`
    // gives the key under which it can be kept anew.
    list: (name) => {
      const keys = () => JSON.parse(get(name) || "[]");
      return {
        keep: (thing, key = `${name}-${Date.now()}-${Math.random()}`) => carefully(async () => {
          if (!keys().includes(key)) put(name, JSON.stringify([...keys(), key]));
          await ask("readwrite", (photos) => photos.put({ ...thing, key, when: Date.now() }, key));
        }) && key,
        all: async () => {
          const found = keys().map((key) => carefully(() => ask("readonly", (photos) => photos.get(key))));
          return (await Promise.all(found)).filter(Boolean);
        },
        clear: () => {
          keys().forEach(forget);
          put(name, "[]");
        },
      };
    },
    // What was kept: the record, the photo uploaded again, and where the sliders stood.
    recall: async () => {
      await carefully(forgetOld);
      const record = get("record"), sliders = get("sliders");
      put("sliders", "");
      if (!read("record").path) return [record, null, sliders];
      const file = await carefully(async () => {
        const { key } = read("photo");
        const { file } = await ask("readonly", (photos) => photos.get(key));
        const path = await upload(file);
        await ask("readwrite", (photos) => photos.put({ file, when: Date.now() }, key));
        put("photo", JSON.stringify({ path, key }));
        return { path, orig_name: file.name, meta: { _type: "gradio.FileData" } };
      });
      return [record, file, sliders];
    },
  };
})();
