// Several photos at once: one after the other is uploaded, gets the edit of the page, and comes back. All of them, and
// what became of them, stay in the browser.
window.several = (() => {
  const MOST = 100;
  // Of each: file; then said: why it could not be edited; or result, small: its picture, and edit: what was done.
  const photos = [], list = window.keeping.list("several");
  let at = -1, edit = null, kept = null;  // the photo in work, and what they are all given

  const panel = () => document.querySelector("#several .several");
  const part = (name) => document.querySelector(`#several .several-${name}`);
  const press = () => document.querySelector("#several-next").click();
  const draw = () => {
    const done = photos.filter(({ result, said }) => result || said).length, results = photos.filter(({ result }) => result);
    panel().hidden = !photos.length;
    panel().classList.toggle("running", at >= 0);
    part("count").textContent = `${done} / ${photos.length}`;
    Object.assign(part("progress"), { value: done, max: photos.length });
    part("zip").hidden = !results.length;
    part("rows").replaceChildren(...photos.map(({ file, result, small, said }, i) => {
      const row = document.createElement("tr"), [picture, name, state] = ["td", "th", "td"].map((tag) => document.createElement(tag));
      if (small) picture.append(Object.assign(new Image(), { src: small, alt: "" }));
      name.scope = "row";
      name.textContent = name.title = file.name;
      if (said) name.append(Object.assign(document.createElement("small"), { textContent: said }));
      state.textContent = said ? "✗" : result ? "✓" : i === at ? "…" : "";
      if (result) state.ariaLabel = panel().dataset.done;
      row.classList.toggle("refused", Boolean(said));
      row.append(picture, name, state);
      return row;
    }));
  };
  const shrunk = async (blob) => {
    const bitmap = await createImageBitmap(blob), canvas = document.createElement("canvas");
    const scale = 96 / Math.min(bitmap.width, bitmap.height);
    Object.assign(canvas, { width: bitmap.width * scale, height: bitmap.height * scale });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return canvas.toDataURL("image/jpeg");
  };
  const go_on = () => {
    at = photos.findIndex((photo) => photo.edit !== edit);
    draw();
    if (at >= 0) press();
  };
  const keep = (photo) => { photo.key = list.keep(photo, photo.key); };
  const tell = (sentence) => { part("said").textContent = sentence; };

  return {
    add: (files) => {
      const added = [...files].slice(0, MOST - photos.length).map((file) => ({ file }));
      added.forEach(keep);
      photos.push(...added);
      draw();
      tell(files.length && photos.length === MOST ? panel().dataset.most : "");
      panel().scrollIntoView({ block: "nearest" });
      if (at < 0) window.several.start();
    },
    start: () => {
      edit = null;
      at = 0;
      press();
    },
    stop: () => {
      at = -1;
      draw();
    },
    clear: () => {
      photos.length = 0;
      list.clear();
      window.several.stop();
      tell("");
    },
    save: async () => {
      const results = photos.filter(({ result }) => result).map(({ result }) => result);
      window.results.save(new File([await window.results.zip(results)], "photos.zip"));
    },
    // What the server gets of the next photo: the edit, the photo, whether to mark it.
    next: async (now, _, mark) => {
      if (edit === null) {
        const { edits, locked } = JSON.parse(now).people.at(-1);
        tell(Object.keys(edits).length ? "" : panel().dataset.unedited);
        if (!Object.keys(edits).length) window.several.stop();
        [kept, edit] = [now, JSON.stringify([edits, locked, mark])];
        for (const photo of photos) if (photo.edit !== edit || photo.said) photo.edit = photo.said = photo.result = photo.small = undefined;
        if (at >= 0) at = photos.findIndex((photo) => photo.edit !== edit);
        draw();
      }
      if (at < 0) return [kept, null, mark];
      const photo = photos[at];
      try {
        const path = await window.keeping.upload(photo.file);
        return [kept, { path, orig_name: photo.file.name, meta: { _type: "gradio.FileData" } }, mark];
      } catch (error) {
        photo.said = error.message;
        return [kept, null, mark];
      }
    },
    // What came back: the edited photo, or a sentence; neither where the event failed.
    done: async (given, said) => {
      const photo = photos[at];
      if (!photo) return;
      photo.edit = edit;
      if (given) {
        const blob = await (await fetch(given.url)).blob();
        const names = photos.filter(({ result }) => result).map(({ result }) => result.name);
        photo.result = new File([blob], window.results.apart(names, given.orig_name), { type: blob.type });
        photo.small = await shrunk(blob);
      } else {
        photo.said ??= said || panel().dataset.broken;
      }
      if (!photos.includes(photo)) return;
      keep(photo);
      if (photos[at] === photo) go_on(); else draw();
    },
    // What was in the list before the page went away; "Edit them all" goes on with it.
    restore: async () => {
      photos.push(...await list.all());
      draw();
    },
  };
})();
