// Runs once for a sketch: hands it to its stage, and asks for the picture as long as none has followed.
let due;
watch(["after", "turn"], () => {
  const stage = document.querySelector("#[[stage]] .stage");
  stage.dispatchEvent(new CustomEvent("sketch-after", { detail: props.after }));
  const settle = () => {
    if (stage.querySelector(".stage-after").src !== props.after) return;
    trigger("click");
    due = setTimeout(settle, 2000);
  };
  clearTimeout(due);
  due = setTimeout(settle, 1000);
});
