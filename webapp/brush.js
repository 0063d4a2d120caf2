// Runs once for the stage, after `zoom.js`: a brush for what of the photo no edit may touch. What is painted is a mask,
// which travels as base64 of a zlib stream of its bits; see `brush.py`.
const mask = element.querySelector(".stage-mask"), paint = mask.getContext("2d", { willReadFrequently: true });
const SIDE = mask.width, COLOUR = [20, 184, 166, 255];
const brush = element.querySelector(".stage-brush"), pen = element.querySelector(".stage-pen");
const tools = element.querySelector(".brush-tools");
const [erase, thickness, back, clear, done] = "erase size back clear done".split(" ").map((name) => tools.querySelector(`.brush-${name}`));
const earlier = [];  // the mask before each stroke
let whose, told = 0, point = [SIDE / 2, SIDE / 2], stroke = null;

const through = async (bytes, stream) => new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
const all = () => paint.getImageData(0, 0, SIDE, SIDE);
const remember = () => {
  earlier.push(all());
  if (earlier.length > 20) earlier.shift();
};
const bits = () => {
  const { data } = all(), found = new Uint8Array(SIDE * SIDE / 8);
  for (let i = 0; i < SIDE * SIDE; i++) if (data[4 * i + 3] > 127) found[i >> 3] |= 128 >> (i & 7);
  return found;
};
const show = () => {
  const some = bits().some(Boolean);
  stage.classList.toggle("protecting", some);
  back.disabled = !earlier.length;
  clear.disabled = !some;
};
const tell = async () => {
  show();
  const ticket = ++told, found = bits();
  const text = found.some(Boolean) ? btoa(String.fromCharCode(...await through(found, new CompressionStream("deflate")))) : "";
  if (ticket !== told) return;
  props.value = `${whose} ${text}`;
  trigger("input");
};
const painting = (on) => {
  stage.classList.toggle("painting", on);
  brush.setAttribute("aria-pressed", on);
  tools.hidden = !on;
  if (!on) return;
  stage.classList.remove("comparing");
  compare.setAttribute("aria-pressed", false);
};
// Another visit's mask; that of the one on the page is as it was painted.
const load = async () => {
  const { visit, mask: text } = props.protected;
  stage.classList.toggle("protectable", Boolean(visit));
  if (visit === whose) return;
  whose = visit;
  told++;
  earlier.length = 0;
  painting(false);
  paint.clearRect(0, 0, SIDE, SIDE);
  show();
  if (!text) return;
  const found = await through(Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)), new DecompressionStream("deflate"));
  if (visit !== whose) return;
  const picture = all();
  for (let i = 0; i < SIDE * SIDE; i++) if (found[i >> 3] & (128 >> (i & 7))) picture.data.set(COLOUR, 4 * i);
  paint.putImageData(picture, 0, 0);
  show();
};

// The brush is as wide on the screen however closely the picture is looked at.
const width = () => SIDE * thickness.value / 100 / zoom;
const place_pen = () => {
  const [x, y] = point.map((at, i) => `${100 * (at / SIDE * zoom + [left, above][i])}%`);
  pen.style.cssText = `left: ${x}; top: ${y}; width: ${thickness.value}%`;
};
const draw = (to) => {
  paint.globalCompositeOperation = erase.ariaPressed === "true" ? "destination-out" : "source-over";
  paint.strokeStyle = `rgb(${COLOUR.slice(0, 3)})`;
  paint.lineWidth = width();
  paint.lineCap = "round";
  paint.beginPath();
  paint.moveTo(...point);
  paint.lineTo(to[0] + 0.01, to[1]);
  paint.stroke();
  point = to;
};
const within = ({ clientX, clientY }) => {
  const box = mask.getBoundingClientRect();
  return [(clientX - box.left) / box.width * SIDE, (clientY - box.top) / box.height * SIDE];
};
mask.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  if (stroke !== null) {  // a second finger: they zoom
    paint.putImageData(earlier.pop(), 0, 0);
    stroke = null;
  }
  if (fingers.size) return;
  stroke = event.pointerId;
  mask.setPointerCapture(stroke);
  remember();
  point = within(event);
  draw(point);
});
mask.addEventListener("pointermove", (event) => {
  if (stroke === event.pointerId) for (const step of event.getCoalescedEvents?.() ?? [event]) draw(within(step));
  else if (stroke === null) point = within(event);
  place_pen();
});
for (const name of ["pointerup", "pointercancel"]) mask.addEventListener(name, (event) => {
  if (stroke !== event.pointerId) return;
  stroke = null;
  tell();
});
mask.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const to = point.map((at, i) => Math.min(Math.max(at + step[i] * width() / 2, 0), SIDE));
  if (event.key === " " || event.shiftKey) {
    remember();
    draw(to);
    tell();
  }
  point = to;
  place_pen();
});

brush.addEventListener("click", () => {
  painting(tools.hidden);
  place_pen();
  if (!tools.hidden) mask.focus({ preventScroll: true });
});
compare.addEventListener("click", () => painting(false));
done.addEventListener("click", () => {
  painting(false);
  brush.focus();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !tools.hidden) done.click(); });
erase.addEventListener("click", () => { erase.ariaPressed = erase.ariaPressed !== "true"; });
thickness.addEventListener("input", place_pen);
back.addEventListener("click", () => {
  paint.putImageData(earlier.pop(), 0, 0);
  tell();
});
clear.addEventListener("click", () => {
  remember();
  paint.clearRect(0, 0, SIDE, SIDE);
  tell();
});
watch("protected", load);
load();
