// Runs once for a sketch: hands it to its stage, and asks for the picture where none has followed.
let due;
watch("after", () => {
  const stage = document.querySelector("#[[stage]] .stage");
  stage.dispatchEvent(new CustomEvent("sketch-after", { detail: props.after }));
  clearTimeout(due);
  due = setTimeout(() => {
    if (stage.querySelector(".stage-after").src === props.after) trigger("click");
  }, 1000);
});
