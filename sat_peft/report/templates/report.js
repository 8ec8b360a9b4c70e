"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // Names of classes and files reach the page through textContent alone, never as markup.
  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  // Tables.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const text = head.dataset.type === "text";
      const button = element("button", { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") === (text ? null : "descending");
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const value = (row) => (text ? row.cells[column].textContent.trim() : row.cells[column].dataset.value);
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          // What was not measured stands last, whichever way the rest is sorted.
          if (x === "" || y === "") return (x === "") - (y === "");
          return (text ? x.localeCompare(y) : x - y) * (ascending ? 1 : -1);
        });
        body.append(...rows);
      });
    });
  }

  if (!byId("data")) return;
  const { records, colours: packedColours } = JSON.parse(byId("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const colours = bytes(packedColours);
  const CHUNK = 60;
  const controls = {};
  for (const id of ["class", "order", "low", "high", "strength", "boxes", "pictured"]) controls[id] = byId(id);

  // Pictures. `tile` 0 is the localisation map, tiles 1 to K are those of the spatial blocks.
  // With a strength below 1 the map lets the image through, the more the lower its value.
  function mapCanvas(record, tile, strength) {
    const [height, width] = record.grid;
    const stride = width * record.map_ranges.length;
    const values = bytes(record.maps);
    const canvas = element("canvas", { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const value = values[y * stride + tile * width + x];
        image.data.set(colours.subarray(3 * value, 3 * value + 3), 4 * (y * width + x));
        image.data[4 * (y * width + x) + 3] = strength < 1 ? strength * (80 + 0.68 * value) : 255;
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  function boxes(record) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const [width, height] = record.size;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    const add = ([x0, y0, x1, y1], kind) => {
      // A dark line below the coloured one sets it off from any image and map.
      for (const layer of ["ground", kind]) {
        const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        const sides = { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0), class: layer };
        for (const [name, value] of Object.entries(sides)) rect.setAttribute(name, value);
        svg.append(rect);
      }
    };
    for (const box of record.true_boxes) add(box, "true");
    add(record.box, "predicted");
    return svg;
  }

  function picture(record, { tile = null, mapStrength = 1, withBoxes = false }) {
    const [width, height] = record.size;
    const stage = element("span", { className: "stage" });
    stage.style.aspectRatio = `${width} / ${height}`;
    stage.style[width >= height ? "width" : "height"] = "100%";
    if (record.thumbnail) {
      stage.append(element("img", { src: `data:image/jpeg;base64,${record.thumbnail}`, alt: "", draggable: false }));
      if (tile !== null) stage.append(mapCanvas(record, tile, mapStrength));
    } else {
      stage.append(element("span", { className: "missing", textContent: "no picture kept" }));
    }
    if (withBoxes) stage.append(boxes(record));
    return element("span", { className: "frame" }, stage);
  }

  const strength = () => 0.99 * controls.strength.value / 100;
  const iouText = (record) => (record.iou === null ? "" : `IoU ${record.iou.toFixed(2)}`);
  const scoreText = (record) => `${(100 * record.score).toFixed(0)} %`;

  function predictedLine(record) {
    const right = record.predicted === record.label;
    const said = element("span", { className: right ? "" : "wrong", textContent: right ? "class right," : `${record.predicted},` });
    return element("span", { className: "caption sub" }, said, ` ${scoreText(record)}`);
  }

  // The list.
  let listed = [];
  let shown = 0;

  function filter() {
    const [low, high] = controls.low ? [Number(controls.low.value), Number(controls.high.value)] : [0, 1];
    const name = controls.class.value;
    listed = records.filter(
      (record) =>
        (name === "" || record.label === classNames[name]) &&
        (!controls.pictured?.checked || record.thumbnail) &&
        (record.iou === null || (record.iou >= low && record.iou <= high)),
    );
    const key = controls.order.value.replace("-", "");
    const sign = controls.order.value.startsWith("-") ? -1 : 1;
    listed.sort((a, b) => sign * (a[key] - b[key]));
    if (controls.low) {
      byId("low-value").textContent = low.toFixed(2);
      byId("high-value").textContent = high.toFixed(2);
    }
    byId("count").textContent = `${listed.length.toLocaleString("en")} of ${records.length.toLocaleString("en")} images`;
    byId("cards").replaceChildren();
    shown = 0;
    showMore();
  }

  function card(record, number) {
    const line = element("span", { className: "caption", textContent: record.label, title: record.label });
    const iou = element("span", { className: "caption sub", textContent: iouText(record) });
    const made = element("button", { type: "button", className: "card" });
    made.setAttribute("aria-label", `${record.label}, predicted ${record.predicted}, ${iouText(record)}`);
    made.append(picture(record, { tile: 0, mapStrength: strength(), withBoxes: controls.boxes.checked }), line);
    if (record.iou !== null) made.append(iou);
    made.append(predictedLine(record));
    made.addEventListener("click", () => open(number));
    return made;
  }

  function showMore() {
    const end = Math.min(shown + CHUNK, listed.length);
    const cards = [];
    for (let number = shown; number < end; number++) cards.push(card(listed[number], number));
    byId("cards").append(...cards);
    shown = end;
    byId("more").hidden = shown >= listed.length;
  }

  // The large view.
  const viewer = byId("viewer");
  let current = 0;

  function captioned(frame, text) {
    return element("div", {}, frame, element("span", { className: "caption sub", textContent: text }));
  }

  function draw() {
    const record = listed[current];
    byId("viewer-title").textContent = record.label;
    byId("viewer-position").textContent = `${current + 1} / ${listed.length}`;
    // A button that were disabled in earnest would keep the focus and swallow the keys.
    byId("previous").ariaDisabled = current === 0;
    byId("next").ariaDisabled = current === listed.length - 1;
    const range = (tile) => record.map_ranges[tile].map((value) => value.toFixed(2)).join(" to ");
    const content = [];
    const large = element("div", { className: "large" });
    large.append(captioned(picture(record, { withBoxes: true }), "true box (solid), predicted box (dashed)"));
    if (record.maps) {
      large.append(captioned(picture(record, { tile: 0, mapStrength: strength(), withBoxes: true }), `localisation map, ${range(0)}`));
    }
    content.push(large);
    if (record.maps && record.map_ranges.length > 1) {
      const blocks = element("div", { className: "blocks" });
      for (let tile = 1; tile < record.map_ranges.length; tile++) {
        blocks.append(captioned(picture(record, { tile }), `${tile}: ${range(tile)}`));
      }
      content.push(element("h4", { textContent: "Maps of the spatial blocks, first to last" }), blocks);
    }
    const facts = element("dl", { className: "settings" });
    const box = (values) => values.map((value) => value.toFixed(1)).join(", ");
    const known = {
      image: record.image_id,
      class: record.label,
      "predicted class": `${record.predicted} (${scoreText(record)})`,
      IoU: record.iou === null ? "not measured" : record.iou.toFixed(3),
      "predicted box (x0, y0, x1, y1)": box(record.box),
      "true boxes": record.true_boxes.map(box).join("; ") || "none",
      "evaluated at": `${record.size.join(" x ")} pixels`,
    };
    for (const [name, value] of Object.entries(known)) {
      facts.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
    }
    content.push(facts);
    byId("viewer-content").replaceChildren(...content);
  }

  function open(number) {
    current = number;
    draw();
    viewer.showModal();
    viewer.scrollTop = 0;
  }

  function walk(step) {
    const target = current + step;
    if (target < 0 || target >= listed.length) return;
    current = target;
    if (current >= shown) showMore();
    draw();
  }

  // On the document: a click on a picture takes the focus out of the large view.
  document.addEventListener("keydown", (event) => {
    if (!viewer.open) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    walk(step);
  });
  // Escape closes a dialog by itself; the focus goes to the image that was last seen.
  viewer.addEventListener("close", () => byId("cards").children[current]?.focus());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  byId("previous").addEventListener("click", () => walk(-1));
  byId("next").addEventListener("click", () => walk(1));
  byId("close").addEventListener("click", () => viewer.close());
  let touched = null;
  viewer.addEventListener("touchstart", (event) => (touched = event.changedTouches[0]), { passive: true });
  viewer.addEventListener("touchend", (event) => {
    const moved = event.changedTouches[0].clientX - touched.clientX;
    const along = Math.abs(moved) > 2 * Math.abs(event.changedTouches[0].clientY - touched.clientY);
    if (Math.abs(moved) > 50 && along) walk(moved < 0 ? 1 : -1);
  });

  // In the list the arrow keys move the focus, as they do in the large view.
  byId("cards").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step && (step > 0 ? event.target.nextElementSibling : event.target.previousElementSibling);
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });

  // Controls.
  const counts = new Map();
  for (const record of records) counts.set(record.label, (counts.get(record.label) ?? 0) + 1);
  const classNames = [...counts.keys()].sort((a, b) => a.localeCompare(b));
  classNames.forEach((name, number) => {
    controls.class.append(element("option", { value: number, textContent: `${name} (${counts.get(name)})` }));
  });
  for (const button of document.querySelectorAll(".show-class")) {
    button.addEventListener("click", () => {
      controls.class.value = classNames.indexOf(button.dataset.class);
      filter();
      byId("gallery").scrollIntoView();
    });
  }
  controls.low?.addEventListener("input", () => {
    if (Number(controls.low.value) > Number(controls.high.value)) controls.high.value = controls.low.value;
  });
  controls.high?.addEventListener("input", () => {
    if (Number(controls.high.value) < Number(controls.low.value)) controls.low.value = controls.high.value;
  });
  for (const control of Object.values(controls)) {
    control?.addEventListener(control.type === "range" ? "input" : "change", filter);
  }
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", showMore);
  filter();
})();
