// What lies in time under the film: expressions, probabilities and movement by region, on one axis.

const AXIS = 22;
const LANE = 20;
const CHART = 92;
const ROW = 13;
const CAPTION = 17;
const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];

/** A time as it is read: 3.480 s, 1:03.480. */
function clockTime(seconds, digits = 3) {
  // Rounded first, so that 59.9996 is not 60.000.
  const whole = Number(seconds.toFixed(digits));
  if (whole < 60) return `${whole.toFixed(digits)} s`;
  const minutes = Math.floor(whole / 60);
  const rest = (whole % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

class Timeline {
  /**
   * @param data of the page
   * @param act {seek(seconds), loop(expression)}
   */
  constructor(data, act) {
    this.data = data;
    this.act = act;
    this.canvas = find("time");
    this.box = find("lanes");
    this.overview = find("overview");
    this.layer = make("canvas"); // all but the cursor, drawn again only when it changes
    this.view = [0, data.duration];
    this.person = data.people[0];
    this.now = 0;
    this.hover = null;
    this.active = null;
    this.visible = () => true;
    this.listen();
  }

  // ---- layout

  /** Where each lane begins, in pixels of the page, and the height of all. */
  lanes() {
    const kinds = this.kinds();
    const lanes = { axis: 0 };
    let top = AXIS;
    if (kinds.length) {
      lanes.expressions = top + CAPTION;
      top = lanes.expressions + LANE * kinds.length + 8;
    }
    lanes.chart = top + CAPTION;
    top = lanes.chart + CHART + 8;
    if (this.rows()) {
      lanes.heat = top + CAPTION;
      top = lanes.heat + ROW * this.rows() + 4;
    }
    return { ...lanes, kinds, height: top };
  }

  /** The kinds of expressions that have a row. */
  kinds() {
    const found = new Set(this.person.expressions.map((one) => one.kind));
    return ["micro", "macro", "blink"].filter((kind) => found.has(kind));
  }

  rows() {
    return this.person.strength.length ? this.data.regions.length : 0;
  }

  get width() {
    return this.box.clientWidth;
  }

  /** Names of rows stand beside the lanes, or over them where there is no room. */
  get gutter() {
    return this.width > 620 ? 92 : 0;
  }

  x(seconds) {
    const [start, end] = this.view;
    return this.gutter + ((seconds - start) / (end - start)) * (this.width - this.gutter);
  }

  seconds(x) {
    const [start, end] = this.view;
    const share = Math.max(0, Math.min(1, (x - this.gutter) / (this.width - this.gutter)));
    return start + share * (end - start);
  }

  // ---- drawing

  /** Draw everything anew. */
  draw() {
    const lanes = this.lanes();
    this.canvas.style.height = `${lanes.height}px`;
    sharpen(this.canvas, this.width, lanes.height);
    sharpen(this.layer, this.width, lanes.height);
    this.colours = readColours(this.data.classes.length);
    const context = this.layer.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, lanes.height);
    context.font = `11px ${this.colours.font}`;
    this.drawAxis(context, lanes);
    context.save();
    context.beginPath();
    context.rect(this.gutter, AXIS, this.width - this.gutter, lanes.height);
    context.clip();
    this.drawThinned(context);
    if (lanes.kinds.length) this.drawExpressions(context, lanes);
    this.drawChart(context, lanes);
    if (this.rows()) this.drawHeat(context, lanes);
    context.restore();
    this.drawCaptions(context, lanes);
    this.drawOverview();
    this.drawCursor();
  }

  drawAxis(context, lanes) {
    const [start, end] = this.view;
    const least = ((end - start) * 84) / (this.width - this.gutter);
    const step = STEPS.find((size) => size >= least) || 7200;
    const digits = step < 0.01 ? 3 : step < 0.1 ? 2 : step < 1 ? 1 : 0;
    context.textBaseline = "alphabetic";
    for (let tick = Math.ceil(start / step) * step; tick <= end + 1e-9; tick += step) {
      const x = Math.round(this.x(tick)) + 0.5;
      context.strokeStyle = this.colours.rule;
      context.beginPath();
      context.moveTo(x, AXIS - 5);
      context.lineTo(x, lanes.height);
      context.stroke();
      context.fillStyle = this.colours.muted;
      const label = clockTime(Math.abs(tick), digits);
      context.textAlign = x + context.measureText(label).width / 2 > this.width ? "right" : x < this.gutter + 12 ? "left" : "center";
      context.fillText(label, Math.min(x, this.width), 12);
    }
    context.textAlign = "left";
  }

  /** Stretches of the film of which the page has only few frames. */
  drawThinned(context) {
    context.strokeStyle = this.colours.rule;
    for (const [start, end] of this.data.thinned) {
      const [left, right] = [Math.max(this.gutter, this.x(start)), Math.min(this.width, this.x(end))];
      if (right <= left) continue;
      context.save();
      context.beginPath();
      context.rect(left, AXIS, right - left, 5);
      context.clip();
      context.beginPath();
      for (let x = left - 6; x < right; x += 4) {
        context.moveTo(x, AXIS + 6);
        context.lineTo(x + 6, AXIS);
      }
      context.strokeStyle = this.colours.muted;
      context.stroke();
      context.restore();
    }
  }

  drawExpressions(context, lanes) {
    for (const one of this.person.expressions) {
      if (!this.visible(one)) continue;
      const block = this.block(one, lanes);
      if (block.right < this.gutter || block.left > this.width) continue;
      this.drawBlock(context, one, block);
    }
  }

  block(one, lanes) {
    const top = lanes.expressions + LANE * lanes.kinds.indexOf(one.kind) + 2;
    const left = this.x(one.onset);
    return { left, right: Math.max(left + 3, this.x(one.end)), top, height: LANE - 4, apex: this.x(one.apex) };
  }

  drawBlock(context, one, { left, right, top, height, apex }) {
    const hue = this.hue(one);
    context.fillStyle = hue;
    context.globalAlpha = one.kind === "micro" ? 1 : 0.28;
    roundedBox(context, left, top, right - left, height);
    context.fill();
    context.globalAlpha = 1;
    if (one.kind !== "micro") {
      context.strokeStyle = hue;
      context.setLineDash(one.kind === "macro" ? [4, 2] : []);
      context.stroke();
      context.setLineDash([]);
    }
    context.fillStyle = one.kind === "micro" ? this.colours.paper : hue;
    if (right - left > 8) context.fillRect(Math.round(apex) - 1, top, 2, height);
    if (one === this.active) {
      context.strokeStyle = this.colours.ink;
      context.lineWidth = 2;
      roundedBox(context, left - 2, top - 2, right - left + 4, height + 4);
      context.stroke();
      context.lineWidth = 1;
    }
    this.drawLabel(context, one, right, top);
  }

  /** The emotion beside its block, if nothing else stands there. */
  drawLabel(context, one, right, top) {
    if (!one.emotion) return;
    const text = readable(one.emotion);
    const { expressions } = this.person; // in the order of their onsets
    const isNext = (other) => other.kind === one.kind && other.onset > one.onset && this.visible(other);
    let next = expressions.indexOf(one) + 1;
    while (next < expressions.length && !isNext(expressions[next])) next += 1;
    const end = next < expressions.length ? Math.min(this.width, this.x(expressions[next].onset)) : this.width;
    const room = end - right - 8;
    if (context.measureText(text).width > room) return;
    context.fillStyle = this.colours.ink;
    context.textBaseline = "middle";
    context.fillText(text, right + 5, top + LANE / 2 - 1.5);
  }

  hue(one) {
    const place = this.data.classes.indexOf(one.emotion);
    return place < 0 ? this.colours.muted : this.colours.classes[place];
  }

  drawChart(context, lanes) {
    const { times, probabilities } = this.person;
    const count = this.data.classes.length;
    context.strokeStyle = this.colours.rule;
    for (const level of [0, 0.5, 1]) {
      const y = Math.round(lanes.chart + CHART * (1 - level)) + 0.5;
      context.beginPath();
      context.moveTo(this.gutter, y);
      context.lineTo(this.width, y);
      context.stroke();
    }
    const [first, last] = this.inView(times);
    context.lineWidth = 1.6;
    context.lineJoin = "round";
    for (let place = count - 1; place >= 0; place -= 1) {
      context.strokeStyle = this.colours.classes[place];
      // Hues repeat after eight.
      context.setLineDash(place < 8 ? [] : [5, 3]);
      context.stroke(this.curve(times, (row) => probabilities[row * count + place], first, last, lanes.chart));
    }
    context.setLineDash([]);
    context.lineWidth = 1;
    if (first === last) this.drawDots(context, first, count, lanes.chart);
  }

  /** A film of one window has no lines. */
  drawDots(context, row, count, top) {
    for (let place = 0; place < count; place += 1) {
      context.fillStyle = this.colours.classes[place];
      context.beginPath();
      const y = top + CHART * (1 - this.person.probabilities[row * count + place]);
      context.arc(this.x(this.person.times[row]), y, 3.5, 0, 2 * Math.PI);
      context.fill();
    }
  }

  /** Rows of the series that are in view, with one more on each side. */
  inView(times) {
    const last = times.length - 1;
    return [lastUpTo(times, this.view[0]), Math.min(last, lastUpTo(times, this.view[1]) + 1)];
  }

  /** A line through the values; broken where a gap is wider than three usual steps; means where pixels hold several. */
  curve(times, value, first, last, top) {
    const path = new Path2D();
    const gap = 3 * this.usualStep(times);
    const perPixel = Math.max(1, Math.floor((last - first) / (2 * this.width)));
    let before = -Infinity;
    for (let row = first; row <= last; row += perPixel) {
      const end = Math.min(last + 1, row + perPixel);
      let sum = 0;
      for (let each = row; each < end; each += 1) sum += value(each);
      const point = [this.x(times[row]), top + CHART * (1 - sum / (end - row))];
      if (times[row] - before > Math.max(gap, 2 * perPixel * this.usualStep(times))) path.moveTo(...point);
      else path.lineTo(...point);
      before = times[row];
    }
    return path;
  }

  usualStep(times) {
    if (times !== this.stepOf) {
      const steps = Array.from(times.subarray(1), (time, place) => time - times[place]).sort((a, b) => a - b);
      this.step = steps.length ? steps[steps.length >> 1] : this.data.duration;
      this.stepOf = times;
    }
    return this.step;
  }

  drawHeat(context, lanes) {
    const rows = this.rows();
    const columns = this.columns(rows);
    const scale = this.strongest(rows);
    context.fillStyle = this.colours.track;
    context.fillRect(this.gutter, lanes.heat, this.width - this.gutter, ROW * rows - 1);
    context.fillStyle = this.colours.deep;
    columns.forEach((values, column) => {
      if (!values) return;
      for (let row = 0; row < rows; row += 1) {
        if (!(values[row] > 0)) continue;
        context.globalAlpha = Math.min(1, values[row] / scale) ** 0.8;
        context.fillRect(this.gutter + column, lanes.heat + ROW * row, 1, ROW - 1);
      }
    });
    context.globalAlpha = 1;
  }

  /** For each column of pixels the greatest strengths of the windows nearest to it. */
  columns(rows) {
    const { times, strength } = this.person;
    const columns = new Array(Math.max(0, Math.ceil(this.width - this.gutter)));
    const [first, last] = this.inView(times);
    const reach = 1.5 * this.usualStep(times);
    for (let place = first; place <= last; place += 1) {
      const before = place ? Math.min(reach, (times[place] - times[place - 1]) / 2) : this.usualStep(times) / 2;
      const after = place < times.length - 1 ? Math.min(reach, (times[place + 1] - times[place]) / 2) : this.usualStep(times) / 2;
      const from = Math.max(0, Math.floor(this.x(times[place] - before) - this.gutter));
      const to = Math.min(columns.length, Math.max(from + 1, Math.ceil(this.x(times[place] + after) - this.gutter)));
      for (let column = from; column < to; column += 1) {
        columns[column] ||= new Float32Array(rows);
        for (let row = 0; row < rows; row += 1) {
          columns[column][row] = Math.max(columns[column][row], strength[place * rows + row] || 0);
        }
      }
    }
    return columns;
  }

  /** The strength drawn in full: of the whole film, so that it does not change with the view. */
  strongest() {
    if (this.scaleOf !== this.person) {
      const values = Array.from(this.person.strength).filter(Number.isFinite).sort((a, b) => a - b);
      this.scale = Math.max(0.05, values.length ? values[Math.floor(0.995 * (values.length - 1))] : 0);
      this.scaleOf = this.person;
    }
    return this.scale;
  }

  drawCaptions(context, lanes) {
    context.textBaseline = "alphabetic";
    const captions = [
      [lanes.expressions, "Expressions"],
      [lanes.chart, this.data.probability[0].toUpperCase() + this.data.probability.slice(1)],
      [lanes.heat, `Movement by region (full colour: ${this.rows() ? this.strongest().toPrecision(2) : 0} px)`],
    ];
    context.font = `600 11px ${this.colours.font}`;
    for (const [top, text] of captions) {
      if (top === undefined) continue;
      this.writeOver(context, text, 0, top - 5);
    }
    context.textBaseline = "middle";
    if (this.gutter) this.drawNames(context, lanes);
    else this.drawSmallNames(context, lanes);
  }

  /** Names of rows and levels, beside the lanes. */
  drawNames(context, lanes) {
    context.font = `11px ${this.colours.font}`;
    context.fillStyle = this.colours.muted;
    lanes.kinds.forEach((kind, row) => context.fillText(kind, 0, lanes.expressions + LANE * (row + 0.5)));
    for (let row = 0; row < this.rows(); row += 1) {
      context.fillText(readable(this.data.regions[row]), 0, lanes.heat + ROW * (row + 0.5));
    }
    context.textAlign = "right";
    for (const level of [0, 0.5, 1]) {
      context.fillText(String(level), this.gutter - 8, lanes.chart + CHART * (1 - level));
    }
    context.textAlign = "left";
  }

  /** Names of the regions over their rows, where there is no room beside them. */
  drawSmallNames(context, lanes) {
    context.font = `9px ${this.colours.font}`;
    context.lineWidth = 3;
    context.strokeStyle = this.colours.paper;
    context.fillStyle = this.colours.ink;
    for (let row = 0; row < this.rows(); row += 1) {
      const place = [readable(this.data.regions[row]), 3, lanes.heat + ROW * (row + 0.5)];
      context.strokeText(...place);
      context.fillText(...place);
    }
    context.lineWidth = 1;
  }

  /** Text on a ground of its own, so that lines of the axis don't cross it. */
  writeOver(context, text, x, y) {
    context.fillStyle = this.colours.paper;
    context.fillRect(x, y - 11, context.measureText(text).width + 6, 15);
    context.fillStyle = this.colours.ink;
    context.fillText(text, x, y);
  }

  /** Cursor and crosshair over what is drawn already. */
  drawCursor() {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.layer, 0, 0);
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const height = this.canvas.height / ratio;
    if (this.hover !== null) this.drawLine(context, this.x(this.hover), height, this.colours.muted, 1);
    const x = this.x(this.now);
    if (x < this.gutter - 1 || x > this.width + 1) return;
    this.drawLine(context, Math.max(this.gutter, Math.min(this.width - 1, x)), height, this.colours.bad, 2);
    context.fillStyle = this.colours.bad;
    context.beginPath();
    context.moveTo(x - 6, AXIS - 9);
    context.lineTo(x + 6, AXIS - 9);
    context.lineTo(x, AXIS);
    context.fill();
  }

  drawLine(context, x, height, colour, width) {
    context.fillStyle = colour;
    context.fillRect(Math.round(x - width / 2), AXIS - 4, width, height);
  }

  /** The whole film in small, with the part in view; only where a part is in view. */
  drawOverview() {
    this.overview.hidden = !this.zoomed;
    if (!this.zoomed) return;
    sharpen(this.overview, this.overview.clientWidth, this.overview.clientHeight);
    const context = this.overview.getContext("2d");
    const { width, height } = this.overview;
    const scale = width / this.data.duration;
    context.fillStyle = this.colours.track;
    context.fillRect(0, 0, width, height);
    for (const one of this.person.expressions.filter((each) => this.visible(each))) {
      context.fillStyle = this.hue(one);
      context.fillRect(one.onset * scale, height * 0.25, Math.max(2, one.duration * scale), height * 0.5);
    }
    const [start, end] = this.view;
    context.fillStyle = this.colours.accent;
    context.globalAlpha = 0.18;
    context.fillRect(start * scale, 0, (end - start) * scale, height);
    context.globalAlpha = 1;
    context.strokeStyle = this.colours.accent;
    context.lineWidth = 2;
    context.strokeRect(start * scale + 1, 1, Math.max(4, (end - start) * scale - 2), height - 2);
  }

  // ---- time

  get zoomed() {
    return this.view[1] - this.view[0] < this.data.duration - 1e-6;
  }

  /** Show more or less time; what is at `centre` stays where it is. */
  zoom(factor, centre = this.now) {
    const [start, end] = this.view;
    const around = Math.max(start, Math.min(end, centre));
    const least = Math.min(this.data.duration, Math.max(0.05, 8 / this.data.fps));
    const length = Math.max(least, Math.min(this.data.duration, (end - start) * factor));
    this.moveTo(around - ((around - start) / (end - start)) * length, length);
  }

  moveTo(start, length = this.view[1] - this.view[0]) {
    const from = Math.max(0, Math.min(this.data.duration - length, start));
    this.view = [from, from + length];
    this.draw();
  }

  /** Make an interval visible with some time around it. */
  reveal(from, to) {
    const [start, end] = this.view;
    if (from >= start && to <= end) return;
    const length = Math.max(end - start, (to - from) * 3);
    this.moveTo((from + to) / 2 - length / 2, length);
  }

  /** Move the cursor; the view follows it, but stays where the reader has put it while the cursor stands still. */
  setNow(seconds) {
    const moved = seconds !== this.now;
    this.now = seconds;
    const [start, end] = this.view;
    if (moved && this.zoomed && !this.dragged && (seconds < start || seconds > end)) {
      this.moveTo(seconds - 0.1 * (end - start));
    } else this.drawCursor();
  }

  setPerson(person) {
    this.person = person;
    this.draw();
  }

  // ---- pointer

  listen() {
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.release(event));
    this.canvas.addEventListener("pointercancel", () => this.stopDrag());
    this.canvas.addEventListener("pointerleave", () => this.showTip(null));
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    for (const name of ["pointerdown", "pointermove"]) {
      this.overview.addEventListener(name, (event) => event.buttons && this.dragOverview(event));
    }
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  position(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    if (event.button) return;
    const [x, y] = this.position(event);
    this.canvas.setPointerCapture(event.pointerId);
    this.dragged = { x, moved: false, block: this.expressionAt(x, y) };
    if (!this.dragged.block) this.act.seek(this.seconds(x));
  }

  move(event) {
    const [x, y] = this.position(event);
    if (this.dragged) {
      this.dragged.moved ||= Math.abs(x - this.dragged.x) > 3;
      if (this.dragged.moved) this.act.seek(this.seconds(x));
    }
    this.canvas.style.cursor = this.expressionAt(x, y) ? "pointer" : "crosshair";
    this.showTip(x < this.gutter ? null : { x, y });
  }

  release() {
    const { block, moved } = this.dragged || {};
    this.stopDrag();
    if (block && !moved) this.act.loop(block);
  }

  stopDrag() {
    this.dragged = null;
  }

  wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 100), this.seconds(this.position(event)[0]));
    } else if (this.zoomed && (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))) {
      event.preventDefault();
      const [start, end] = this.view;
      this.moveTo(start + ((event.deltaX || event.deltaY) / this.width) * (end - start));
    }
  }

  dragOverview(event) {
    const box = this.overview.getBoundingClientRect();
    const centre = ((event.clientX - box.left) / box.width) * this.data.duration;
    this.moveTo(centre - (this.view[1] - this.view[0]) / 2);
  }

  /** The expression at a point of the lanes; the shortest, if several are drawn there. */
  expressionAt(x, y) {
    const lanes = this.lanes();
    if (!lanes.kinds.length || y < lanes.expressions || y >= lanes.expressions + LANE * lanes.kinds.length) return null;
    const kind = lanes.kinds[Math.floor((y - lanes.expressions) / LANE)];
    const found = this.person.expressions.filter((one) => {
      const { left, right } = this.block(one, lanes);
      return one.kind === kind && this.visible(one) && x >= left - 3 && x <= right + 3;
    });
    return found.sort((a, b) => a.duration - b.duration)[0] || null;
  }

  // ---- values under the pointer

  showTip(point) {
    const tip = find("tip");
    this.hover = point && this.seconds(point.x);
    tip.hidden = !point;
    if (point) {
      tip.replaceChildren(...this.tipLines(point));
      const left = point.x + 14 + tip.offsetWidth > this.width ? point.x - tip.offsetWidth - 14 : point.x + 14;
      tip.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(AXIS, point.y - tip.offsetHeight / 2)}px)`;
    }
    this.drawCursor();
  }

  tipLines({ x, y }) {
    const seconds = this.seconds(x);
    const lines = [make("b", clockTime(seconds))];
    const one = this.expressionAt(x, y);
    if (one) lines.push(...expressionLines(one));
    const lanes = this.lanes();
    const row = nearest(this.person.times, seconds);
    if (!this.person.times.length) return lines;
    if (y >= lanes.chart - CAPTION && y < lanes.chart + CHART + 8) lines.push(...this.probabilityLines(row));
    else if (lanes.heat && y >= lanes.heat - CAPTION) lines.push(...this.strengthLines(row));
    return lines;
  }

  probabilityLines(row) {
    const count = this.data.classes.length;
    return this.data.classes
      .map((name, place) => ({ name, place, value: this.person.probabilities[row * count + place] }))
      .sort((a, b) => b.value - a.value)
      .map(({ name, place, value }) => {
        const line = make("span", `${readable(name)} ${value.toFixed(2)}`);
        const key = make("i");
        key.style.background = this.colours.classes[place];
        line.prepend(key);
        return line;
      });
  }

  strengthLines(row) {
    const rows = this.rows();
    return this.data.regions.map((name, place) => {
      const value = this.person.strength[row * rows + place];
      return make("span", `${readable(name)} ${Number.isFinite(value) ? `${value.toFixed(2)} px` : "not seen"}`);
    });
  }
}

function expressionLines(one) {
  return [
    make("span", `${one.emotion ? readable(one.emotion) : one.kind} · ${one.kind}, ${one.duration.toFixed(3)} s`),
    make("span", `apex ${clockTime(one.apex)}, confidence ${one.confidence.toFixed(2)}`),
  ];
}

function roundedBox(context, x, y, width, height) {
  context.beginPath();
  context.roundRect(x, y, width, height, 3);
}
