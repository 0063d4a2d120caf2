// Runs once for the stage, after `stage.js`: how closely the picture is looked at, and the original while it is held.
const closer = element.querySelector(".stage-zoom");
const FURTHEST = 4;  // times a picture's own pixels
let zoom = 1, left = 0, above = 0;  // the picture's size and place, in those of the stage

const own = () => {  // at which a pixel of the picture is one of the screen
  const fits = images.after.naturalWidth / stage.clientWidth;
  return fits > 1.1 ? fits : 2;
};
const look = (x = left, y = above) => {
  left = Math.min(0, Math.max(1 - zoom, x));
  above = Math.min(0, Math.max(1 - zoom, y));
  const place = { "--zoom": zoom, "--left": `${100 * left}%`, "--top": `${100 * above}%` };
  for (const [name, value] of Object.entries(place)) stage.style.setProperty(name, value);
  stage.classList.toggle("zoomed", zoom > 1);
  closer.setAttribute("aria-pressed", zoom > 1);
};
const share = ({ clientX, clientY }) => {
  const box = stage.getBoundingClientRect();
  return [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
};
// What lies at a point stays there.
const zoom_to = (wanted, [x, y] = [0.5, 0.5]) => {
  const before = zoom;
  zoom = Math.min(Math.max(wanted, 1), FURTHEST * own());
  if (zoom < 1.02) zoom = 1;
  look(x - (x - left) * zoom / before, y - (y - above) * zoom / before);
};
const switch_zoom = (point) => zoom_to(zoom > 1 ? 1 : own(), point);

closer.addEventListener("click", () => switch_zoom());
closer.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
  if (!step || zoom === 1) return;
  event.preventDefault();
  look(left + step[0], above + step[1]);
});
stage.addEventListener("dblclick", (event) => {
  if (!event.target.closest(".stage-tools")) switch_zoom(share(event));
});
// A page that has been scrolled is scrolled back first.
stage.addEventListener("wheel", (event) => {
  const out = event.deltaY > 0;
  if (zoom === 1 && !event.ctrlKey && (out || scrollY > 0)) return;
  event.preventDefault();
  const lines = event.deltaMode ? 20 : 1;
  zoom_to(zoom * Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), share(event));
}, { passive: false });

// One finger, or the mouse, moves a picture that is looked at closely, and shows the original where it rests, unless
// it has the divider to move or paints; two fingers zoom.
const fingers = new Map();
let resting, moved = false, reach = 1;
const busy = () => stage.matches(".comparing, .painting");
const hold = (on) => {
  clearTimeout(resting);
  stage.classList.toggle("holding", on);
};
const between = () => {
  const [one, other] = [...fingers.values()];
  return [Math.hypot(one[0] - other[0], one[1] - other[1]), [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2]];
};
stage.addEventListener("pointerdown", (event) => {
  if (event.button || event.target.closest(".stage-tools")) return;
  fingers.set(event.pointerId, share(event));
  hold(false);
  moved = fingers.size > 1;
  if (fingers.size === 2) reach = between()[0] / zoom;
  if (fingers.size === 1 && !busy()) resting = setTimeout(() => hold(moved = true), 250);
});
addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = share(event), [dx, dy] = [now[0] - before[0], now[1] - before[1]];
  if (fingers.size === 1 && !busy()) {
    if (!stage.hasPointerCapture(event.pointerId) && Math.hypot(dx, dy) * stage.clientWidth < 5) return;
    if (zoom > 1 || !stage.classList.contains("holding")) hold(false);
    moved = true;
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, now);
    look(left + dx, above + dy);
  } else if (fingers.size === 2) {
    const middle = between()[1];
    fingers.set(event.pointerId, now);
    const [apart, there] = between();
    look(left + there[0] - middle[0], above + there[1] - middle[1]);
    zoom_to(apart / reach, there);
  }
});
const lift = (event) => {
  if (fingers.delete(event.pointerId)) hold(false);
};
for (const name of ["pointerup", "pointercancel"]) addEventListener(name, lift);
// What was held or moved was not clicked.
stage.addEventListener("click", (event) => {
  if (moved && event.detail && !event.target.closest(".stage-tools")) event.stopPropagation();
}, true);
stage.addEventListener("touchstart", (event) => { if (event.touches.length > 1) event.preventDefault(); }, { passive: false });
stage.addEventListener("contextmenu", (event) => { if (fingers.size) event.preventDefault(); });
stage.addEventListener("dragstart", (event) => event.preventDefault());
