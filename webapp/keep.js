// What the browser keeps of a visit, in its own database: photo and edits of this tab, for a day. A page that comes
// back, after a reload, a lost connection or in another language, finds them there.
window.keeping = (() => {
  const DAY = 24 * 3600 * 1000;
  const session = (key, value) => {
    try { return value === undefined ? sessionStorage.getItem(key) : sessionStorage.setItem(key, value); } catch { return null; }
  };
  const anew = () => { const name = `${Date.now()}-${Math.random()}`; session("tab", name); return name; };
  const opened = new Promise((done, failed) => {
    const request = indexedDB.open("dystyle", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("visits");
    request.onsuccess = () => done(request.result);
    request.onerror = request.onblocked = failed;
  });
  const ask = async (mode, question) => {
    const database = await opened;
    return new Promise((done, failed) => {
      const request = question(database.transaction("visits", mode).objectStore("visits"));
      request.onsuccess = () => done(request.result);
      request.onerror = failed;
    });
  };

  // A tab that was duplicated has the name of the other one: it goes on with a copy under a name of its own.
  const tab = (async () => {
    const name = session("tab") || anew();
    if (!navigator.locks) return name;
    const free = await new Promise((done) =>
      navigator.locks.request(name, { ifAvailable: true }, (lock) => { done(lock); return lock && new Promise(() => {}); }));
    if (free) return name;
    const found = await ask("readonly", (visits) => visits.get(name)), own = anew();
    navigator.locks.request(own, () => new Promise(() => {}));
    if (found) await ask("readwrite", (visits) => visits.put(found, own));
    return own;
  })();

  const forgetOld = async () => {
    const names = await ask("readonly", (visits) => visits.getAllKeys());
    for (const name of names) {
      const { when } = await ask("readonly", (visits) => visits.get(name));
      if (when < Date.now() - DAY) await ask("readwrite", (visits) => visits.delete(name));
    }
  };

  const address = (path) => `${window.gradio_config.root}/gradio_api/${path}`;
  const upload = async (file) => {
    const form = new FormData();
    form.append("files", file, file.name);
    const answer = await fetch(address("upload"), { method: "POST", body: form });
    return (await answer.json())[0];
  };
  const fetched = async (path) => {
    const answer = await fetch(address("file=") + encodeURI(path).replace(/[?#]/g, encodeURIComponent));
    if (!answer.ok) return null;
    return new File([await answer.blob()], path.split(/[\\/]/).pop());
  };

  // Nothing here may keep the page from working where a browser keeps nothing.
  const carefully = (work) => work().catch((error) => { console.info("Nothing is kept:", error); return null; });
  let last = Promise.resolve();

  // An edit that is still on its way when the page goes: where the sliders stand, and for whom.
  let shown = "";
  const whom = (record) => {
    const { seed, photo, face } = JSON.parse(record).people.at(-1);
    return [seed, photo, face].join();
  };
  addEventListener("pagehide", () => {
    const sliders = [...document.querySelectorAll("#attributes input[type=range]")];
    if (!shown || !sliders.length) return;
    const values = sliders.map((slider) => [slider.closest(".attribute").id.slice("attribute-".length), Number(slider.value)]);
    session("sliders", JSON.stringify({ whom: whom(shown), values: Object.fromEntries(values) }));
  });

  return {
    // Keeps a visit as the server describes it; fetches its photo if that is a new one.
    keep: (record) => {
      shown = record;
      last = last.then(() => carefully(async () => {
        const { path } = JSON.parse(record), name = await tab;
        const old = await ask("readonly", (visits) => visits.get(name));
        const file = !path ? null : old?.path === path ? old.file : await fetched(path);
        await ask("readwrite", (visits) => visits.put({ record, path, file, when: Date.now() }, name));
      }));
    },
    // What was kept: the record, the photo uploaded again, and where the sliders stood.
    recall: async () => {
      const noted = JSON.parse(session("sliders") || "{}");
      session("sliders", "");
      await carefully(forgetOld);
      const kept = await carefully(async () => {
        const name = await tab, found = await ask("readonly", (visits) => visits.get(name));
        if (!found?.file) return found;
        found.path = await carefully(() => upload(found.file));
        if (found.path) await ask("readwrite", (visits) => visits.put({ ...found, when: Date.now() }, name));
        return found;
      });
      if (!kept) return ["", null, ""];
      const file = kept.path && { path: kept.path, orig_name: kept.file.name, meta: { _type: "gradio.FileData" } };
      return [kept.record, file || null, noted.whom === whom(kept.record) ? JSON.stringify(noted.values) : ""];
    },
  };
})();
