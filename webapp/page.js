// Runs once when the page has loaded: what Gradio's components do not do by themselves.
() => {
  const languages = document.querySelector("#languages");
  document.documentElement.lang = languages.dataset.page;

  // The first visit follows the browser's language, later ones the visitor's choice.
  const remembered = { get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* not allowed here */ } } };
  const own = languages.querySelector(`[lang="${navigator.language.slice(0, 2)}"]`);
  if (own && languages.dataset.page === "en" && !remembered.get("language")) location.replace(own.href + location.hash);
  languages.addEventListener("click", (event) => { if (event.target.lang) remembered.set("language", event.target.lang); });

  const dark = remembered.get("dark");
  if (dark !== null) document.body.classList.toggle("dark", dark === "true");
  document.querySelector("#theme").addEventListener("click", () => {
    remembered.set("dark", document.body.classList.toggle("dark"));
  });

  // Groups of sliders are closed and opened by their titles, and stay so.
  for (const title of document.querySelectorAll("#attributes [id^='group-']")) {
    const button = title.querySelector("button");
    const open = (on) => {
      button.ariaExpanded = on;
      for (let row = title.nextElementSibling; row?.matches(".attribute"); row = row.nextElementSibling) row.hidden = !on;
    };
    button.addEventListener("click", () => {
      const on = button.ariaExpanded !== "true";
      open(on);
      remembered.set(title.id, on);
    });
    open(remembered.get(title.id) !== "false");
  }

  // Gradio reports a slider's release for the pointer and for leaving the number only: let the arrow keys and
  // Enter end a move in the same way.
  document.addEventListener("keyup", (event) => {
    if (event.target.matches?.(":is(#attributes, #mix) input[type=range]:not(.stage-split)") && event.key !== "Tab") {
      event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    }
  });
  // A number that is emptied is the one before: Gradio would show the lowest, until the server says otherwise.
  const NUMBER = "#attributes input[type=number]";
  document.addEventListener("focusin", ({ target }) => { if (target.matches?.(NUMBER)) target.dataset.before = target.value; });
  document.addEventListener("blur", ({ target }) => {
    if (!target.matches?.(NUMBER) || target.value) return;
    target.value = target.dataset.before;
    target.dispatchEvent(new InputEvent("input", { bubbles: true }));
  }, true);
  const sheet = document.querySelector("#shortcuts");
  const next = () => {
    const faces = [...document.querySelectorAll("#faces button.thumbnail-item")];
    faces[(faces.findIndex((face) => face.classList.contains("selected")) + 1) % faces.length]?.click();
  };
  const press = (selector) => () => document.querySelector(selector).click();
  const keys = { b: press("#stage .stage-compare"), z: press("#stage .stage-zoom"), n: next, r: press("#reset-all"), "?": () => sheet.open ? sheet.close() : sheet.showModal() };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches?.(":is(#attributes, #mix-row, #truncation) input[type=number]")) {
      event.target.blur();
      event.target.focus();
    }
    if (event.target.matches?.("textarea, input:not([type=range], [type=radio], [type=checkbox])")) return;
    const command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
    const meant = command && key === "z" ? press(event.shiftKey ? "#redo" : ".stage.painting + .brush-tools .brush-back, #undo") : !command && !event.altKey && keys[key];
    if (!meant) return;
    event.preventDefault();
    meant();
  });
  document.querySelector("#help").addEventListener("click", keys["?"]);
  sheet.addEventListener("click", (event) => { if (event.target === sheet) sheet.close(); });

  // A photo or a saved face may be dropped or pasted anywhere. The photo's own box refuses what does not look like a
  // picture to the browser: it is handed over as one, and the server says what it is.
  const put = (input, file) => {
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const choose = (file) => {
    const saved = /\.safetensors$/i.test(file.name);
    const input = document.querySelector(saved ? "input[type=file][accept='.safetensors']" : "#photo input[type=file]");
    if (!saved) document.querySelector("#photo .source-selection button")?.click();
    put(input, saved || file.type.startsWith("image/") ? file : new File([file], file.name, { type: "image/unknown" }));
  };
  const take = (files) => {
    if (files.length === 1) return choose(files[0]);
    document.querySelector("#tab-edit-button")?.click();
    window.several.add(files);
  };
  const several = document.querySelector("#several input");
  several.addEventListener("change", () => {
    window.several.add(several.files);
    several.value = "";
  });
  document.querySelector(".several-choose").addEventListener("click", () => several.click());
  for (const what of ["start", "stop", "clear", "zip"]) {
    const act = { zip: "save" }[what] ?? what;
    document.querySelector(`.several-${what}`).addEventListener("click", () => window.several[act]());
  }
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#photo .image-frame")) document.querySelector("#photo input[type=file]").click();
  });
  document.addEventListener("change", (event) => {
    const file = event.target.matches("#photo input[type=file]") && event.target.files[0];
    if (!file || file.type.startsWith("image/")) return;
    event.stopPropagation();
    choose(file);
  }, true);
  const dropping = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    dropping(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) dropping(false); });
  document.addEventListener("drop", (event) => {
    dropping(false);
    const { files } = event.dataTransfer;
    if (!files.length) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
    take(files);
  }, true);
  document.addEventListener("paste", (event) => {
    const { files } = event.clipboardData;
    if (!files.length) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    take(files);
  }, true);

  // The second photo of the mixture comes back when its tab is opened after a reload; one that was refused leaves the
  // one before.
  const second = window.keeping.list("second"), SECOND = "#mix-controls input[type=file]";
  let given;
  document.addEventListener("change", (event) => {
    if (event.target.matches(SECOND) && event.target.files.length) [given] = event.target.files;
  }, true);
  window.mixing = {
    keep: (taken) => {
      if (!taken) return;
      second.clear();
      second.keep({ file: given });
    },
  };
  document.addEventListener("click", (event) => { if (event.target.closest?.("#other-random")) second.clear(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.closest?.("#other")) second.clear(); });
  document.querySelector("#tab-mix-button").addEventListener("click", async () => {
    const [kept] = await second.all();
    while (kept && !document.querySelector(SECOND)) await new Promise(requestAnimationFrame);
    if (kept) put(document.querySelector(SECOND), kept.file);
  }, { once: true });

  // Without a camera its cover would stay over the photo's box.
  const devices = navigator.mediaDevices, camera = devices?.getUserMedia.bind(devices);
  if (camera) devices.getUserMedia = (asked) => camera(asked).catch((error) => {
    document.querySelector("#photo .source-selection button").click();
    document.querySelector("#no-camera").click();
    throw error;
  });

  document.querySelector("#results .results-all").addEventListener("click", () => window.results.all());
  window.results.restore();
  window.several.restore();
  window.presets.start();

  // There is nothing to edit before somebody is met; see `stage.js`. Until then the sliders stand nowhere, and would
  // be taken for an edit.
  const met = () => document.querySelector("#stage .stage.ready");
  if (!met()) document.querySelector("#attributes").inert = true;
  document.addEventListener("click", (event) => {
    if (!met() && event.target.closest?.("#result, #attributes")) event.stopPropagation();
  }, true);

  // Names for what shows a number or a picture only; Gradio draws some of it later than the page.
  const name = () => {
    for (const row of document.querySelectorAll(".attribute")) {
      const label = row.querySelector("label span, label")?.textContent.trim();
      const reset = row.querySelector(".reset"), lock = row.querySelector(".lock label");
      reset?.setAttribute("aria-label", "↺ " + label);
      if (reset) reset.title = "↺ " + label;
      if (lock) lock.title = lock.textContent.trim();
    }
    const upload = document.querySelector("#photo button.upload-container"), said = upload?.innerText.trim();
    if (said && upload.ariaLabel !== said) upload.ariaLabel = said;
    document.querySelectorAll("#examples .gallery-item").forEach((example, i) => {
      if (example.dataset.edit) return;
      example.dataset.edit = document.querySelectorAll("#example-edits li")[i].textContent;
      example.ariaLabel = `${document.querySelector("#photo label")?.textContent.trim()} ${i + 1}: ${example.dataset.edit}`;
    });
  };
  name();
  new MutationObserver(name).observe(document.querySelector("#workbench"), { childList: true, subtree: true });
};
