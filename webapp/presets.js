// Ready-made edits of the face as it is, and those of the visitor's own, which the browser keeps.
window.presets = (() => {
  const KEY = "presets";
  const read = () => { try { return JSON.parse(localStorage.getItem(KEY)) ?? []; } catch { return []; } };
  const write = (presets) => { try { localStorage.setItem(KEY, JSON.stringify(presets)); } catch { /* not allowed here */ } };
  const part = (name) => document.querySelector(`#own-presets .own-${name}`);
  const named = (row) => row.id.slice("attribute-".length);
  let chosen = null;

  const draw = () => {
    part("list").replaceChildren(...read().map((preset, i) => {
      const both = document.createElement("span"), [use, remove] = [0, 1].map(() => Object.assign(document.createElement("button"), { type: "button" }));
      use.textContent = preset.name;
      use.addEventListener("click", () => {
        chosen = preset;
        document.querySelector("#own-preset").click();
      });
      Object.assign(remove, { className: "own-remove", textContent: "×", title: part("list").dataset.remove });
      remove.ariaLabel = `${remove.title} ${preset.name}`;
      remove.addEventListener("click", () => {
        write(read().toSpliced(i, 1));
        draw();
      });
      both.append(use, remove);
      return both;
    }));
  };
  const naming = (on) => {
    part("form").hidden = !on;
    part("add").hidden = on;
    part(on ? "name" : "add").focus();
    if (on) part("name").select();
  };
  const keep = () => {
    const moved = [...document.querySelectorAll("#attributes .attribute:has(.reset:enabled)")];
    const to = Object.fromEntries(moved.map((row) => [named(row), Number(row.querySelector("input[type=range]").value)]));
    const name = part("name").value.trim();
    if (name && moved.length) write([...read().filter((preset) => preset.name !== name), { name, to }]);
    naming(false);
    draw();
  };
  // Where the sliders go, in their own numbers, which for a share are percents. `rows` are those of the attributes,
  // `inputs` all sliders, all locks, the strength in percent, and what is kept of the visit. Locked ones stay.
  const apply = ({ add = {}, to = {}, free = [] }, rows, inputs) => {
    const values = inputs.slice(0, rows.length), locks = inputs.slice(rows.length, 2 * rows.length);
    const [strength, kept] = inputs.slice(-2), { start } = JSON.parse(kept);
    return rows.map(({ name, times, low, high, step }, i) => {
      const began = times * start[name], value = Number(values[i] ?? began), share = strength / 100;
      const more = name in to ? share * (to[name] - value) : share * (add[name] ?? 0);
      const wanted = free.includes(name) ? Math.max(value, began) : value + more;
      if (locks[i] || wanted === value) return values[i];
      return Math.min(Math.max(Number((Math.round(wanted / step) * step).toFixed(2)), low), high);
    });
  };

  return {
    apply,
    own: (rows, inputs) => apply(chosen, rows, inputs),
    start: () => {
      part("add").addEventListener("click", () => naming(true));
      part("name").addEventListener("keydown", (event) => {
        const act = { Enter: keep, Escape: () => naming(false) }[event.key];
        if (!act) return;
        event.preventDefault();  // or it would press the button that comes
        act();
      });
      part("save").addEventListener("click", keep);
      draw();
    },
  };
})();
