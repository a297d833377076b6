// Plots: one uPlot each, drawn when it is first seen, and made anew only when its lines are others.

const compact = value => Math.abs(value) >= 1e9 ? `${+(value / 1e9).toPrecision(4)}G` : Math.abs(value) >= 1e6 ? `${+(value / 1e6).toPrecision(4)}M`
  : Math.abs(value) >= 1e4 ? `${+(value / 1e3).toPrecision(4)}k` : Math.abs(value) < 1e-3 && value ? value.toExponential(0) : `${+value.toPrecision(4)}`;

const seen = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) target.plot.see();
}, { rootMargin: "200px" });
const sized = new ResizeObserver(entries => { for (const { target } of entries) target.plot.resize(); });

function plot(parent, key, title, axis, height) {
  if (!plots.has(key)) plots.set(key, new Plot(parent, title, axis, height));
  return plots.get(key);
}

class Plot {
  constructor(parent, title, axis, height) {
    this.axis = axis; this.height = height; this.visible = false; this.series = [];
    this.output = el("output", { "aria-live": "polite" });
    this.canvas = el("div", { class: "canvas", tabindex: 0, role: "img", "aria-label": `${title}; arrow keys read values`, onkeydown: event => this.key(event) });
    this.canvas.style.setProperty("--height", `${height}px`);
    this.canvas.plot = this;
    this.element = el("div", { class: "plot" }, el("h3", {}, el("span", {}, title), this.output), this.canvas);
    parent.append(this.element);
    seen.observe(this.canvas);
    sized.observe(this.canvas);
  }

  draw(series, targets, upright = []) {
    this.series = series; this.targets = targets; this.upright = upright;
    this.element.hidden = !series.length;
    if (this.visible) this.update();
  }

  see() {
    if (this.visible) return;
    this.visible = true;
    this.update();
  }

  resize() {
    if (this.u && this.canvas.clientWidth) this.u.setSize({ width: this.canvas.clientWidth, height: this.height });
  }

  update() {
    const tables = this.series.map(line => line.band ? [line.x, line.y, ...line.band] : [line.x, line.y]);
    const data = tables.length ? uPlot.join(tables) : [[0, 1]];
    const made = JSON.stringify([this.series.map(line => [line.name, line.colour, line.width, line.dash, !!line.band]), this.targets, dark.matches]);
    if (this.made === made) return this.zoomed ? (this.u.setData(data, false), this.u.redraw()) : this.u.setData(data);
    this.made = made;
    this.u?.destroy();
    this.zoomed = false;
    this.make(data);
  }

  make(data) {
    const ink = drawn("var(--soft)"), grid = { stroke: drawn("var(--grid)"), width: 1 }, series = [{}], bands = [];
    this.lines = [null];
    for (const line of this.series) {
      const stroke = drawn(line.colour), alpha = line.alpha ?? 1;
      this.lines.push(line);
      series.push(line.mark ? { paths: () => null, stroke, points: { show: (u, index) => { this.marks(u, index, line.mark, stroke); return false; } } }
        : { stroke, width: line.width, dash: line.dash, alpha, spanGaps: true, points: { show: (u, index, from, to) => to - from < 2 } });
      if (line.band) {
        this.lines.push(null, null);
        series.push({ stroke: null, width: 0, points: { show: false }, spanGaps: true }, { stroke: null, width: 0, points: { show: false }, spanGaps: true });
        bands.push({ series: [series.length - 1, series.length - 2], fill: stroke + "2e" });
      }
    }
    const values = (u, splits) => splits.map(value => value == null ? "" : compact(value));
    this.u = new uPlot({
      width: this.canvas.clientWidth, height: this.height, series, bands, legend: { show: false },
      scales: { x: { time: false, range: (u, low, high) => [Math.min(low ?? 0, this.zoomed ? low : 0), high ?? 1] },
        y: { range: (u, low, high) => low == null ? [0, 1] : uPlot.rangeNum(low, high, 0.08, true) } },
      axes: [{ stroke: ink, grid, ticks: { ...grid, size: 4 }, values, size: 30 }, { stroke: ink, grid, ticks: { ...grid, size: 4 }, values, size: 52 }],
      focus: { alpha: 0.3 },
      cursor: { y: false, points: { size: 7 }, sync: { key: this.axis, setSeries: false }, drag: { x: true, y: false },
        focus: { prox: 30, dist: (u, index, at, y, cursor) => this.lines[index] ? y - cursor : Infinity },
        dataIdx: (u, index, at) => nearest(u.data[index], at) },
      hooks: {
        setCursor: [() => this.read()], setSeries: [() => this.read()],
        setSelect: [u => { if (u.select.width) this.zoomed = true; }],
        setScale: [], draw: [u => this.straight(u)],
      },
    }, data, this.canvas);
    this.u.over.addEventListener("dblclick", () => { this.zoomed = false; });
  }

  read() {
    const u = this.u, at = u?.cursor.idx;
    let index = u ? u.series.findIndex((each, number) => number && each._focus && this.lines[number]) : -1;
    if (index < 0 && this.canvas === document.activeElement) index = this.reading ?? 1;
    if (at == null || index < 0 || !this.lines[index]) { this.output.textContent = ""; return; }
    const place = nearest(u.data[index], at), y = u.data[index][place];
    this.output.textContent = y == null ? "" : `${compact(y)} at ${compact(u.data[0][place])}${this.axis === "steps" ? "" : " s"}, ${this.lines[index].name}`;
  }

  key(event) {
    const u = this.u, step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], other = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!u || !(step || other)) return;
    event.preventDefault();
    const indices = this.lines.map((line, index) => line ? index : 0).filter(Boolean);
    const now = Math.max(indices.indexOf(this.reading), 0);
    this.reading = indices[(now + (other ?? 0) + indices.length) % indices.length];
    const known = u.data[0].map((_, index) => index).filter(index => u.data[this.reading][index] != null);
    const here = known.indexOf(nearest(u.data[this.reading], u.cursor.idx ?? 0));
    const place = known[Math.min(Math.max(here + (step ?? 0), 0), known.length - 1)];
    u.setCursor({ left: u.valToPos(u.data[0][place], "x"), top: u.valToPos(u.data[this.reading][place], "y") });
    this.read();
  }

  marks(u, index, mark, stroke) {
    const { ctx } = u;
    ctx.save();
    ctx.font = `${(u.data[index].filter(y => y != null).length > 40 ? 8 : 15) * devicePixelRatio}px system-ui`;  // many small ones
    ctx.textAlign = "center"; ctx.textBaseline = "middle"; ctx.fillStyle = stroke;
    u.data[index].forEach((y, at) => { if (y != null) ctx.fillText(mark, u.valToPos(u.data[0][at], "x", true), u.valToPos(y, "y", true)); });
    ctx.restore();
  }

  straight(u) {  // targets, and upright lines
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = drawn("var(--soft)");
    ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.font = `${11 * devicePixelRatio}px system-ui`;
    for (const target of this.targets) {
      const y = u.valToPos(target, "y", true);
      if (y < bbox.top || y > bbox.top + bbox.height) continue;
      ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
      ctx.fillText(`target ${compact(target)}`, bbox.left + 6, y - 4 * devicePixelRatio);
    }
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const at of this.upright) {
      const x = u.valToPos(at, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
    }
    ctx.restore();
  }
}

function nearest(values, at) {
  if (!values || values[at] != null) return at;
  for (let away = 1; away < values.length; away++) {
    if (values[at - away] != null) return at - away;
    if (values[at + away] != null) return at + away;
  }
  return at;
}
