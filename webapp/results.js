// What has been downloaded in this tab, in a strip below the picture: again with a click, or all as one zip.
window.results = (() => {
  const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let i = 0; i < 8; i++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  const checksum = async (file) => {
    let sum = ~0;
    for (const byte of new Uint8Array(await file.arrayBuffer())) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
    return ~sum >>> 0;
  };
  const record = (...fields) => {  // little endian; [size in bytes, value]
    const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
    let at = 0;
    for (const [size, value] of fields) {
      if (size === 2) view.setUint16(at, value, true); else view.setUint32(at, value, true);
      at += size;
    }
    return view.buffer;
  };
  // Files as a zip, not compressed: pictures and films are already.
  const zip = async (files) => {
    const parts = [], list = [];
    let at = 0, listed = 0;
    for (const file of files) {
      const name = new TextEncoder().encode(file.name), sum = await checksum(file);
      const facts = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 0x21], [4, sum], [4, file.size], [4, file.size], [2, name.length], [2, 0]];
      parts.push(record([4, 0x04034b50], ...facts), name, file);
      list.push(record([4, 0x02014b50], [2, 20], ...facts, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), name);
      at += 30 + name.length + file.size;
      listed += 46 + name.length;
    }
    const end = record([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, listed], [4, at], [2, 0]);
    return new Blob([...parts, ...list, end], { type: "application/zip" });
  };
  const apart = (names, name) => {  // the name, or one like it that is not taken
    const [, stem, ending] = name.match(/^(.*?)(\.\w+)?$/s);
    let tried = name;
    for (let i = 2; names.includes(tried); i++) tried = `${stem}-${i}${ending ?? ""}`;
    return tried;
  };
  const save = (file, name = file.name) => {
    const url = URL.createObjectURL(file);
    Object.assign(document.createElement("a"), { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  };

  const fetched = async (url, name) => {
    const blob = await (await fetch(url)).blob();
    return new File([blob], name, { type: blob.type });
  };

  const files = [], kept = window.keeping.list("files");  // with their checksums
  const draw = () => {
    const strip = document.querySelector("#results .results");
    strip.querySelector(".results-files").replaceChildren(...files.map(({ file, url }) => {
      const button = Object.assign(document.createElement("button"), { type: "button", title: file.name, ariaLabel: file.name });
      button.append(file.type.startsWith("image/") ? Object.assign(new Image(), { src: url, alt: "" }) : file.name.split(".").at(-1).slice(0, 4));
      button.addEventListener("click", () => save(file));
      return button;
    }));
    strip.hidden = !files.length;
    strip.querySelector(".results-all").hidden = files.length < 2;
  };
  const add = async (given, keep = () => {}) => {
    const sum = await checksum(given);
    if (files.some(({ file, ...known }) => known.sum === sum && file.size === given.size)) return;
    keep(given);
    const name = apart(files.map(({ file }) => file.name), given.name), { type } = given;
    files.push({ sum, file: new File([given], name, { type }), url: URL.createObjectURL(given) });
    draw();
  };

  return {
    zip, apart, save,
    // Saves what lies at an address, and adds it to the strip.
    download: async (url, name) => {
      const file = await fetched(url, name);
      save(file);
      add(file, (given) => kept.keep({ file: given }));
    },
    // Opens the saved face that lies at an address, as if the visitor had chosen it.
    open: async (url, name) => {
      const chosen = new DataTransfer(), input = document.querySelector("input[type=file][accept='.safetensors']");
      chosen.items.add(await fetched(url, name));
      input.files = chosen.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
      document.querySelector("#tab-edit-button").click();
    },
    all: async () => save(new File([await zip(files.map(({ file }) => file))], "dystyle.zip")),
    // What was in the strip before the page went away.
    restore: async () => {
      for (const { file } of await kept.all()) await add(file);
    },
  };
})();
