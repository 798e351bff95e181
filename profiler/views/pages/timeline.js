// The block under the pointer, and what is alive at an instant that is clicked. `data` stands before.
// Blocks come in the order in which the picture stacks them. Of each, `first` and `last` say at which of the
// drawn positions it is alive: from the one to before the other. Those alive at none are left out.
const svg = document.getElementById("timeline"), tooltip = document.getElementById("tooltip");
const line = document.getElementById("moment"), shape = document.getElementById("block");
const {born, died, category, place} = data.blocks, blocks = born.length;
const first = Int32Array.from(data.blocks.first), last = Int32Array.from(data.blocks.last);
const size = Float64Array.from(data.blocks.size), rounding = Float64Array.from(data.blocks.rounding);
const xOf = position => data.left + position / data.events * (data.width - data.left);
const yOf = bytes => data.height * (1 - bytes / data.most);
const phaseOf = position => data.phases.find(phase => position <= phase[0]) || data.phases.at(-1);
function bytes(n) {
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB"]) if (n >= 1024) { n /= 1024; unit = next; }
  return (unit === "B" ? n : n.toFixed(2)) + " " + unit;
}
function blockAt(at, height) {
  let below = 0;
  for (let block = 0; block < blocks; block++) if (first[block] <= at && at < last[block]) {
    below += size[block];
    if (height < below) return [block, below];
  }
  return [null, below];
}
function outline(block) {
  // What lies below changes where a block begins or ends: one walk over the blocks, one over the positions.
  const from = first[block], to = last[block], change = new Float64Array(to - from + 1);
  for (let other = 0; other < block; other++) {
    const start = Math.max(first[other], from), end = Math.min(last[other], to);
    if (start < end) { change[start - from] += size[other]; change[end - from] -= size[other]; }
  }
  const top = [], bottom = [];
  for (let at = from, low = 0; at < to; at++) {
    low += change[at - from];
    const x = xOf(data.positions[at]).toFixed(1);
    bottom.push(x + "," + yOf(low).toFixed(1));
    top.push(x + "," + yOf(low + size[block]).toFixed(1));
  }
  return [...top, ...bottom.reverse()].join(" ");
}
function positionAt(x) {
  const wanted = (x - data.left) / (data.width - data.left) * data.events;
  let low = 0, high = data.positions.length - 1;
  while (low < high) {
    const middle = low + high >> 1;
    if (data.positions[middle] < wanted) low = middle + 1; else high = middle;
  }
  const before = low > 0 && wanted - data.positions[low - 1] < data.positions[low] - wanted;
  return before ? low - 1 : low;
}
function pointed(event) {
  const box = svg.getBoundingClientRect(), scale = box.width / data.width;
  const at = positionAt((event.clientX - box.left) / scale);
  return [at, (1 - (event.clientY - box.top) / scale / data.height) * data.most];
}
function say(words, tag) {
  for (const word of words.filter(word => word)) {
    const element = document.createElement(tag);
    element.textContent = word;
    if (tag === "div") element.className = "note";
    tooltip.append(element, tag === "b" ? " " : "");
  }
}
let shown = null;
function show(event) {
  const [at, height] = pointed(event), position = data.positions[at], allocated = data.allocated[at];
  const [block, requested] = blockAt(at, height), [, phase] = phaseOf(position);
  tooltip.replaceChildren();
  if (block !== null && height >= 0) {
    const [operation, module, code] = data.places[place[block]];
    say([data.categories[category[block]], bytes(size[block])], "b");
    say([module, code, operation], "span");
    for (const span of tooltip.querySelectorAll("span")) span.style.display = "block";
    const end = died[block] < data.events ? "freed in " + phaseOf(died[block])[1] : "alive at the end";
    say(["born in " + phaseOf(born[block])[1] + ", " + end], "div");
  } else if (height >= 0 && height < allocated) {
    say(["rounding", bytes(allocated - requested)], "b");
  } else if (height >= 0 && data.reserved && height < data.reserved[at]) {
    say(["reserved, not allocated", bytes(data.reserved[at] - allocated)], "b");
  }
  const held = data.reserved ? ", " + bytes(data.reserved[at]) + " reserved" : "";
  say([phase + ": " + bytes(allocated) + " allocated" + held], "div");
  if (phase in data.predicted) say(["formula: at least " + bytes(data.predicted[phase]) + " at its peak"], "div");
  for (const end of ["x1", "x2"]) line.setAttribute(end, xOf(position).toFixed(1));
  line.setAttribute("visibility", "visible");
  if (block !== shown) {
    shown = block;
    shape.setAttribute("points", block === null ? "" : outline(block));
  }
  tooltip.hidden = false;
  const left = event.clientX + 16, width = tooltip.offsetWidth;
  tooltip.style.left = Math.max(8, left + width > innerWidth - 8 ? left - width - 32 : left) + "px";
  const top = event.clientY + 16, tall = tooltip.offsetHeight;
  tooltip.style.top = Math.max(8, top + tall > innerHeight - 8 ? top - tall - 32 : top) + "px";
}
// Bytes at a drawn position by category, module and line: each division has all that is allocated.
function aliveAt(at) {
  const parts = {category: new Map(), module: new Map(), line: new Map()};
  const add = (kind, name, n) => parts[kind].set(name, (parts[kind].get(name) || 0) + n);
  let rounded = 0;
  for (let block = 0; block < blocks; block++) if (first[block] <= at && at < last[block]) {
    const [operation, , code, group] = data.places[place[block]], whole = size[block] + rounding[block];
    add("category", data.categories[category[block]], size[block]);
    add("module", group || "(" + phaseOf(born[block])[2] + ")", whole);
    add("line", code || "(" + (operation || "no line recorded") + ")", whole);
    rounded += rounding[block];
  }
  if (rounded) add("category", "rounding", rounded);
  return parts;
}
function row(name, n, total) {
  const cells = document.createElement("tr");
  for (const word of [name, bytes(n), (100 * n / total).toFixed(1) + " %"]) {
    const cell = cells.insertCell();
    cell.textContent = word;
    if (cell.cellIndex) cell.className = "number";
  }
  return cells;
}
function list(event) {
  const [at] = pointed(event), total = data.allocated[at], alive = document.getElementById("alive");
  const title = document.createElement("h3");
  title.textContent = `Alive here, in ${phaseOf(data.positions[at])[1]}: ${bytes(total)} allocated`;
  alive.replaceChildren(title);
  for (const [kind, sizes] of Object.entries(aliveAt(at))) {
    if (!data.told.includes(kind) || !sizes.size) continue;
    const table = document.createElement("table"), head = table.createCaption();
    head.textContent = "by " + kind;
    const ordered = [...sizes].sort((a, b) => b[1] - a[1]), rest = ordered.slice(data.shown);
    for (const [name, n] of ordered.slice(0, data.shown)) table.append(row(name, n, total));
    if (rest.length) table.append(row(rest.length + " more", rest.reduce((sum, part) => sum + part[1], 0), total));
    alive.append(table);
  }
}
svg.addEventListener("pointermove", show);
svg.addEventListener("pointerdown", show);
svg.addEventListener("click", list);
svg.addEventListener("pointerleave", () => {
  tooltip.hidden = true; shown = null;
  shape.setAttribute("points", ""); line.setAttribute("visibility", "hidden");
});
