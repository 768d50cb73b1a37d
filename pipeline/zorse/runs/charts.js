// Draws the charts that charts.py describes. Colours come from the style sheet, so switching themes needs no redraw.

const HEIGHT = 236, TOP = 8, BOTTOM = 42; // in pixels
const DIGIT = 6.7; // The width of a character in a label; an estimate spares us measuring text before it is drawn.
const FEW = 40; // A curve with fewer points than this gets a mark at each.

function element(name, attributes = {}, ...children) {
  const drawn = ["svg", "g", "path", "line", "rect", "circle", "text"].includes(name);
  const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  made.append(...children);
  return made;
}

// Round numbers between low and high: about `most` of them at most, and no closer together than `least`.
function ticks(low, high, most, least = 0) {
  const rough = Math.max((high - low) / Math.max(most, 1), least);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(one => one * power >= rough * 0.999999);
  const first = Math.ceil(low / step - 1e-6), count = Math.floor(high / step + 1e-6) - first + 1;
  return Array.from({length: count}, (_, i) => +((first + i) * step).toPrecision(12)); // Without 0.30000000000000004.
}

// The labels of ticks, all with as many decimals as it takes to tell neighbours apart.
function labels(values) {
  const most = Math.max(...values.map(Math.abs)), step = values.length > 1 ? values[1] - values[0] : most;
  if (most && (most < 1e-3 || most >= 1e6)) return values.map(one => one ? (+one.toPrecision(6)).toExponential() : "0");
  const digits = step ? Math.max(0, -Math.floor(Math.log10(step) + 1e-6)) : 0;
  const decimals = {minimumFractionDigits: digits, maximumFractionDigits: digits};
  return values.map(one => one ? one.toLocaleString("en", decimals) : "0");
}

const whole = value => Math.round(value).toLocaleString("en");
// Python's %.4g switches to exponents below 1e-4 as well, so the charts and the tables agree.
const written = value => value && Math.abs(value) < 1e-4 ? value.toExponential() : String(value);
const percent = value => (100 * value).toFixed(1) + " %";
const swatch = curve => element("svg", {width: 22, height: 10, class: `swatch hue${curve.hue}`},
  element("path", {class: `curve ${curve.dash}`, d: "M0,5H22"}));

// Appends a chart to `home`. Hovering, touching and the arrow keys read its values, dragging with a mouse zooms in, and
// the legend hides and shows curves. Dragging a finger does not zoom, because that is how a phone scrolls and reads.
function chart(home, {title, x, curves}) {
  const reset = element("button", {class: "reset", hidden: ""}, "whole range");
  const spoken = `${title}; arrow keys read the values`;
  const plot = element("svg", {class: "plot", tabindex: 0, role: "img", "aria-label": spoken});
  const reading = element("div", {class: "reading", role: "status", hidden: ""});
  const legend = element("div", {class: "legend"});
  const frame = element("div", {class: "frame"}, plot, reading);
  home.append(element("figure", {class: "card chart"},
    element("figcaption", {}, element("b", {}, title), reset), frame, legend));

  const hidden = new Set();
  let range = null; // The pairs to zoom in on; null shows everything from zero on.
  let at = null; // The index in x under the crosshair.
  let scale, readable, cursor, drag = null;

  const value = (curve, i) => curve.level ?? curve.y[i];
  const shown = () => curves.filter(curve => !hidden.has(curve));
  const inside = i => !range || (x[i] >= range[0] && x[i] <= range[1]);

  // The y range. It includes zero so that curves can be compared, except when zoomed in, where detail matters more.
  function extent() {
    const found = [];
    for (const curve of shown().filter(curve => !curve.share)) {
      if (curve.level !== undefined) found.push(curve.level);
      else curve.y.forEach((y, i) => {
        const error = curve.error?.[i] ?? 0;
        if (y !== null && inside(i)) found.push(y - error, y + error);
      });
    }
    if (!range || !found.length) found.push(0);
    const low = Math.min(...found), high = Math.max(...found), room = 0.05 * (high - low || Math.abs(high) || 1);
    if (low === high) return low ? [low - room, high + room] : [0, 1];
    return [low === 0 ? 0 : low - room, high === 0 ? 0 : high + room];
  }

  function draw() {
    const width = frame.clientWidth, bottom = HEIGHT - BOTTOM;
    const [low, high] = extent(), [first, last] = range ?? [0, x.at(-1) || 1];
    const ys = ticks(low, high, (bottom - TOP) / 32), yLabels = labels(ys);
    const half = DIGIT * whole(last).length / 2;
    const left = Math.max(half, DIGIT * Math.max(...yLabels.map(one => one.length))) + 8;
    const right = width - (curves.some(curve => curve.share) ? 40 : half + 2);
    const xs = ticks(first, last, Math.min((right - left) / (2 * half + 24), 8), 1);
    const X = pairs => left + (right - left) * (pairs - first) / (last - first);
    const Y = y => bottom - (bottom - TOP) * (y - low) / (high - low);
    const onAxis = curve => curve.share ? y => bottom - (bottom - TOP) * y : Y;
    scale = {X, onAxis, left, right, bottom, width};
    readable = [...x.keys()].filter(i => inside(i) && shown().some(curve => value(curve, i) !== null));

    const grid = element("g", {class: "axes"});
    ys.forEach((y, i) => grid.append(element("line", {x1: left, x2: right, y1: Y(y), y2: Y(y)}),
      element("text", {class: "y", x: left - 6, y: Y(y) + 4}, yLabels[i])));
    xs.forEach(pairs => grid.append(element("line", {x1: X(pairs), x2: X(pairs), y1: TOP, y2: bottom}),
      element("text", {class: "x", x: X(pairs), y: bottom + 17}, whole(pairs))));
    grid.append(element("text", {class: "x", x: (left + right) / 2, y: HEIGHT - 6}, "pairs"));
    if (curves.some(curve => curve.share)) for (const share of [0, 0.25, 0.5, 0.75, 1])
      grid.append(element("text", {x: right + 6, y: bottom - (bottom - TOP) * share + 4}, `${100 * share}%`));

    // The inner svg clips what lies outside the range, with a margin for marks that sit on the edge.
    const side = range ? 0 : 4, box = [left - side, TOP - 4, Math.max(right - left + 2 * side, 0), bottom - TOP + 8];
    const inner = element("svg", {x: box[0], y: box[1], width: box[2], height: box[3], viewBox: box.join(" ")});
    for (const curve of shown()) inner.append(drawn(curve));
    cursor = element("g", {class: "cursor"});
    plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    plot.replaceChildren(grid, inner, cursor);
    reset.hidden = !range;
    read(readable.includes(at) ? at : null);
  }

  function drawn(curve) {
    const {X, onAxis, left, right} = scale, Y = onAxis(curve), group = element("g", {class: `hue${curve.hue}`});
    if (curve.level !== undefined) {
      group.append(element("path", {class: `curve ${curve.dash}`, d: `M${left},${Y(curve.level)}H${right}`}));
      return group;
    }
    const spot = i => `${X(x[i]).toFixed(1)},${Y(curve.y[i]).toFixed(1)}`, has = i => (curve.y[i] ?? null) !== null;
    const found = [...x.keys()].filter(has), few = found.filter(inside).length < FEW;
    group.append(element("path", {class: `curve ${curve.dash}`, "data-name": curve.name,
      d: found.map((i, n) => ((curve.joined ? n : has(i - 1)) ? "L" : "M") + spot(i)).join("")}));
    // A lone point between gaps has no line.
    const marked = found.filter(i => few || !(curve.joined || has(i - 1) || has(i + 1)));
    group.append(element("path", {class: "marks", d: marked.map(i => `M${spot(i)}h0`).join("")}));
    if (curve.error) group.append(element("path", {class: "errors", d: found.filter(i => curve.error[i]).map(i => {
      const [top, end] = [Y(curve.y[i] + curve.error[i]), Y(curve.y[i] - curve.error[i])];
      return `M${X(x[i]) - 3},${top}h6m-3,0V${end}m-3,0h6`;
    }).join("")}));
    return group;
  }

  // Moves the crosshair and the tooltip to x[i]; null hides both.
  function read(i) {
    at = i;
    cursor.replaceChildren();
    reading.hidden = i === null;
    if (i === null) return;
    const across = scale.X(x[i]);
    cursor.append(element("line", {x1: across, x2: across, y1: TOP, y2: scale.bottom}));
    reading.replaceChildren(element("b", {}, `${whole(x[i])} pairs`));
    for (const curve of shown().filter(curve => value(curve, i) !== null)) {
      const y = value(curve, i), deviation = curve.error?.[i] ? ` ± ${written(curve.error[i])}` : "";
      cursor.append(element("circle", {class: `hue${curve.hue}`, cx: across, cy: scale.onAxis(curve)(y), r: 4}));
      reading.append(swatch(curve), element("span", {}, curve.name),
        element("span", {class: "value"}, curve.share ? percent(y) : written(y) + deviation));
    }
    const room = scale.width - reading.offsetWidth;
    const beside = across > scale.width / 2 ? across - reading.offsetWidth - 12 : across + 12;
    reading.style.left = `${Math.max(0, Math.min(beside, room))}px`;
    // On a phone the tooltip may not fit beside the crosshair; then it covers the legend rather than the points.
    reading.style.top = `${beside < 0 || beside > room ? HEIGHT : TOP + 2}px`;
  }

  const place = event => event.clientX - plot.getBoundingClientRect().left;
  const pairsAt = px => {
    const [first, last] = range ?? [0, x.at(-1) || 1], {left, right} = scale;
    return first + (last - first) * Math.min(Math.max((px - left) / (right - left), 0), 1);
  };
  function nearest(pairs) {
    return readable.length ? readable.reduce((a, b) => Math.abs(x[b] - pairs) < Math.abs(x[a] - pairs) ? b : a) : null;
  }
  plot.addEventListener("pointermove", event => {
    read(nearest(pairsAt(place(event))));
    if (drag === null) return;
    const [from, to] = [drag, place(event)].sort((a, b) => a - b);
    cursor.append(element("rect", {x: from, width: to - from, y: TOP, height: scale.bottom - TOP}));
  });
  plot.addEventListener("pointerdown", event => {
    read(nearest(pairsAt(place(event))));
    if (event.pointerType === "mouse" && event.button === 0) {
      drag = place(event);
      plot.setPointerCapture(event.pointerId);
    }
  });
  plot.addEventListener("pointerup", event => {
    if (drag === null) return;
    const [from, to] = [drag, place(event)].sort((a, b) => a - b), chosen = [pairsAt(from), pairsAt(to)];
    drag = null;
    if (to - from > 8 && readable.some(i => x[i] >= chosen[0] && x[i] <= chosen[1])) range = chosen;
    draw();
  });
  plot.addEventListener("pointercancel", () => { drag = null; read(null); });
  plot.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") read(null); });
  plot.addEventListener("blur", () => read(null));
  plot.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.key === "Escape") read(null);
    if (!step || !readable.length) return;
    event.preventDefault();
    const next = at === null ? (step > 0 ? 0 : readable.length - 1) : readable.indexOf(at) + step;
    read(readable[Math.min(Math.max(next, 0), readable.length - 1)]);
  });
  const widen = () => { range = null; draw(); };
  plot.addEventListener("dblclick", widen);
  reset.addEventListener("click", widen);

  const buttons = curves.map(curve => {
    const button = element("button", {"aria-pressed": true}, swatch(curve), curve.name);
    const show = () => {
      buttons.forEach((one, i) => one.setAttribute("aria-pressed", !hidden.has(curves[i])));
      draw();
    };
    button.addEventListener("click", () => {
      if (!hidden.delete(curve)) hidden.add(curve);
      show();
    });
    button.addEventListener("dblclick", () => {
      const alone = shown().length === 1 && !hidden.has(curve);
      hidden.clear();
      if (!alone) curves.filter(one => one !== curve).forEach(one => hidden.add(one));
      show();
    });
    return button;
  });
  legend.append(...buttons);
  new ResizeObserver(draw).observe(frame); // It also reports the initial size, which draws the chart.
}
