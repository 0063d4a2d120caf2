// Runs once when the page has loaded: what Gradio's components do not do by themselves.
() => {
  const language = document.querySelector("#language");
  document.documentElement.lang = language.dataset.page;

  // The first visit follows the browser's language, later ones the visitor's choice.
  const remembered = { get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* not allowed here */ } } };
  if (!remembered.get("language") && language.lang === "zh" && navigator.language.startsWith("zh")) {
    location.replace(language.href + location.hash);
  }
  language.addEventListener("click", () => {
    remembered.set("language", language.lang);
    const edit = document.querySelector("#recipe textarea")?.value;
    if (edit) language.hash = "edit=" + encodeURIComponent(edit);
  });

  const dark = remembered.get("dark");
  if (dark !== null) document.body.classList.toggle("dark", dark === "true");
  document.querySelector("#theme").addEventListener("click", () => {
    remembered.set("dark", document.body.classList.toggle("dark"));
  });

  // Gradio reports a slider's release for the pointer and for leaving the number only: let the arrow keys and
  // Enter end a move in the same way.
  document.addEventListener("keyup", (event) => {
    if (event.target.matches?.(":is(#attributes, #mix) input[type=range]:not(.stage-split)") && event.key !== "Tab") {
      event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches?.(":is(#attributes, #mix-row, #truncation) input[type=number]")) {
      event.target.blur();
      event.target.focus();
    }
    const undo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    if (!undo || event.target.matches?.("textarea, input:not([type=range], [type=radio], [type=checkbox])")) return;
    event.preventDefault();
    document.querySelector(event.shiftKey ? "#redo" : "#undo").click();
  });

  // A saved face may be dropped anywhere, on the photo, too, whose component takes none but pictures.
  document.addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    const face = [...event.dataTransfer.files].find((file) => /\.safetensors$/i.test(file.name));
    const input = document.querySelector("input[type=file][accept='.safetensors']");
    if (!face || !input) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
    const files = new DataTransfer();
    files.items.add(face);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);

  // Names for what shows a number or a picture only; Gradio draws some of it later than the page.
  const name = () => {
    for (const row of document.querySelectorAll(".attribute")) {
      const label = row.querySelector("label span, label")?.textContent.trim();
      row.querySelector(".reset")?.setAttribute("aria-label", "↺ " + label);
    }
    document.querySelectorAll(".gallery-item:not([aria-label])").forEach((example, i) => {
      example.setAttribute("aria-label", document.querySelector("#photo label")?.textContent.trim() + " " + (i + 1));
    });
  };
  name();
  new MutationObserver(name).observe(document.querySelector("#workbench"), { childList: true, subtree: true });
};
