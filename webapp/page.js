// Gradio reports a slider's release for the pointer only: let the keyboard end a move in the same way.
() => {
  document.addEventListener("keyup", (event) => {
    if (event.target.matches?.("#attributes input[type=range]") && event.key !== "Tab") {
      event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    }
  });
};
