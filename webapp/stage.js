// Runs once for the stage: keeps its two pictures up to date and moves the divider.
const stage = element.querySelector(".stage");
const split = element.querySelector(".stage-split");
const compare = element.querySelector(".stage-compare");

// The names stay unquoted here: Gradio would take quoted ones for the names of events.
const images = { before: element.querySelector(".stage-before"), after: element.querySelector(".stage-after") };
for (const [name, image] of Object.entries(images)) {
  let newest = 0;
  // A picture is decoded before it is shown, so nothing flickers, unless the browser takes its time over that;
  // one that was overtaken is dropped.
  const show = async (picture) => {
    const ticket = ++newest;
    if (!picture || picture === image.src) return;
    const next = new Image();
    next.src = picture;
    await Promise.race([next.decode(), new Promise((done) => setTimeout(done, 1000))]);
    if (ticket !== newest) return;
    image.src = next.src;
    if (image !== images.after) return;
    const ratio = String(next.naturalWidth / next.naturalHeight);
    if (stage.style.getPropertyValue("--ratio") !== ratio) zoom_to(1);  // another view
    stage.style.setProperty("--ratio", ratio);
    stage.classList.add("ready");
    if (element.closest("#stage")) document.querySelector("#attributes").inert = false;
  };
  watch([name, "turn"], () => show(props[name]));
  show(props[name]);
  stage.addEventListener(`sketch-${name}`, (event) => show(event.detail));
}

const name_left = () => { if (props.tag) element.querySelector(".stage-tag.left").textContent = props.tag; };
watch("tag", name_left);
name_left();

const people = element.querySelector(".stage-faces");
const name_faces = () => {
  const { boxes = [], shown, edited } = props.faces ?? {};
  people.replaceChildren(...boxes.map(([left, top, width, height], i) => {
    const box = document.createElement("button");
    Object.assign(box, { type: "button", title: `${people.getAttribute("aria-label")} ${i + 1}` });
    box.style.cssText = `left: ${left}%; top: ${top}%; width: ${width}%; height: ${height}%`;
    box.ariaCurrent = i === shown;
    box.classList.toggle("edited", edited.includes(i));
    box.addEventListener("click", () => trigger("click", { index: i }));
    return box;
  }));
};
watch("faces", name_faces);
name_faces();

const place = () => stage.style.setProperty("--split", split.value + "%");
split.addEventListener("input", place);
place();
compare.addEventListener("click", () => {
  const on = stage.classList.toggle("comparing");
  compare.setAttribute("aria-pressed", on);
});
