// What Python has put into the page: one JSON and arrays of numbers in base64.

function readBytes(name) {
  const elements = document.querySelectorAll(`script[data-bytes="${name}"]`);
  const parts = [...elements].map((element) => {
    const text = atob(element.textContent);
    const bytes = new Uint8Array(text.length);
    for (let place = 0; place < text.length; place += 1) bytes[place] = text.charCodeAt(place);
    element.remove(); // the text is no longer needed, and that of a film is large
    return bytes;
  });
  return parts;
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let end = 0;
  for (const part of parts) {
    whole.set(part, end);
    end += part.length;
  }
  return whole.buffer;
}

const readArray = (name, Kind) => new Kind(joined(readBytes(name)));

/** Expressions as objects; `end` is where the frame after the offset begins. */
function readExpressions(rows, columns) {
  return rows.map((row) => {
    const cell = Object.fromEntries(columns.map((name, place) => [name, row[place]]));
    return {
      row,
      person: cell.person,
      frames: [cell.onset_frame, cell.apex_frame, cell.offset_frame],
      onset: cell.onset_seconds,
      apex: cell.apex_seconds,
      offset: cell.offset_seconds,
      end: cell.onset_seconds + cell.duration_seconds,
      duration: cell.duration_seconds,
      kind: cell.kind,
      emotion: cell.emotion,
      confidence: cell.confidence,
    };
  });
}

function readPerson(entry, place, data) {
  return {
    ...entry,
    expressions: readExpressions(entry.expressions, data.columns),
    times: readArray(`times-${place}`, Float64Array),
    probabilities: readArray(`probabilities-${place}`, Float32Array),
    strength: readArray(`flow-${place}`, Float32Array),
    looks: new Looks(joined(readBytes(`looks-${place}`)), entry, data.look),
  };
}

/** Everything but the film. */
function readData() {
  const data = JSON.parse(document.getElementById("data").textContent);
  data.numbers = readArray("numbers", Uint32Array);
  data.seconds = readArray("seconds", Float64Array);
  data.media = readArray("media", Uint32Array);
  data.people = data.people.map((entry, place) => readPerson(entry, place, data));
  return data;
}

/** What is seen of one person in each frame of the page: records as mol/viewer/looks.py writes them. */
class Looks {
  constructor(buffer, entry, layout) {
    this.layout = layout;
    this.size = entry.record;
    this.hasFlow = entry.flow;
    this.count = Math.floor(buffer.byteLength / this.size);
    this.buffer = buffer;
  }

  /** Points [[x, y], …] in fractions of the picture, or null. */
  points(frame, from, count) {
    if (frame >= this.count) return null;
    const values = new Int16Array(this.buffer, frame * this.size + 4 * from, 2 * count);
    if (values[0] === this.layout.absent) return null;
    const { unit } = this.layout;
    return Array.from({ length: count }, (_, place) => [values[2 * place] / unit, values[2 * place + 1] / unit]);
  }

  landmarks(frame) {
    return this.points(frame, 0, 68);
  }

  square(frame) {
    return this.points(frame, 68, 4);
  }

  /** {step, values}: (2, grid, grid) int8 in steps of so many pixels; null if there is none. */
  flow(frame) {
    if (!this.hasFlow || frame >= this.count) return null;
    const start = frame * this.size + 4 * 72;
    const cells = 2 * this.layout.grid ** 2;
    const [step] = new Float32Array(this.buffer.slice(start + cells, start + cells + 4));
    return step > 0 ? { step, values: new Int8Array(this.buffer, start, cells) } : null;
  }

  /** The length of flow to show in full: few frames have longer ones. */
  longestFlow() {
    const lengths = [];
    for (let frame = 0; frame < this.count; frame += 1 + Math.floor(this.count / 400)) {
      const flow = this.flow(frame);
      if (!flow) continue;
      const half = flow.values.length / 2;
      for (let cell = 0; cell < half; cell += 1) {
        lengths.push(flow.step * Math.hypot(flow.values[cell], flow.values[half + cell]));
      }
    }
    lengths.sort((a, b) => a - b);
    return Math.max(0.1, lengths.length ? lengths[Math.floor(0.99 * (lengths.length - 1))] : 0);
  }
}

/** The place of the last value that is not greater; 0 if there is none. Values ascend. */
function lastUpTo(values, value) {
  let low = 0;
  let high = values.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle;
    else high = middle;
  }
  return low;
}

/** The place of the nearest value. */
function nearest(values, value) {
  const place = lastUpTo(values, value);
  const closer = place + 1 < values.length && values[place + 1] - value < value - values[place];
  return closer ? place + 1 : place;
}

const readable = (name) => name.replaceAll("_", " ");

/** The element with an id. */
const find = (id) => document.getElementById(id);

/** A new element with text, which is never taken for markup. */
function make(tag, text = "", properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== "") element.textContent = text;
  return element;
}

/** Colours of the page as they are now, light or dark. */
function readColours(classes) {
  const style = getComputedStyle(document.documentElement);
  const probe = document.body.appendChild(make("i"));
  // A computed colour, because canvases of older browsers know no color-mix().
  const resolved = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const colours = { font: style.getPropertyValue("--sans"), classes: [] };
  for (const name of ["paper", "ink", "muted", "rule", "track", "accent", "deep", "bad"]) colours[name] = resolved(`--${name}`);
  for (let place = 0; place < classes; place += 1) colours.classes.push(resolved(`--class-${place}`));
  probe.remove();
  return colours;
}
