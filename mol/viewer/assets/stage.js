// The picture: the frame of the film, and what the network sees in it.

const MARK = "#ff9d3c"; // as in all pictures of this project
const HALO = "rgba(16, 20, 24, 0.75)";
const LIGHT = "rgba(240, 244, 248, 0.9)";

// Middlebury's wheel: hues at the ends of six arcs, as mol/pictures/faces.py has them.
const WHEEL = [[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255], [255, 0, 0]];
const ARCS = [0, 15, 21, 25, 36, 49, 55].map((part) => (part / 55) * 2 * Math.PI);

/** Red, green, blue of a direction: right is red, down yellow, left cyan, up violet. */
function directionHue(dx, dy) {
  const angle = (Math.atan2(dy, dx) + 2 * Math.PI) % (2 * Math.PI);
  const arc = lastUpTo(ARCS, angle) % 6;
  const weight = (angle - ARCS[arc]) / (ARCS[arc + 1] - ARCS[arc]);
  return WHEEL[arc].map((value, channel) => value + weight * (WHEEL[arc + 1][channel] - value));
}

/** Makes a canvas as sharp as the screen; returns whether its size has changed. */
function sharpen(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const size = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width === size[0] && canvas.height === size[1]) return false;
  [canvas.width, canvas.height] = size;
  return true;
}

class Stage {
  constructor(canvas, data, video) {
    this.canvas = canvas;
    this.data = data;
    this.video = video;
    this.shown = { landmarks: true, flow: true, square: true };
    this.style = "tint";
    this.person = 0;
    this.tint = make("canvas");
    // One more cell on each side, without colour, so that the tint has no hard edge.
    this.tint.width = this.tint.height = data.look.grid + 2;
    this.longest = data.people.map((person) => person.looks.longestFlow());
    this.frame = 0;
    this.ready = false;
    const [width, height] = data.size;
    canvas.style.aspectRatio = `${width} / ${height}`;
    canvas.style.width = `calc(min(58vh, 42rem) * ${width / height})`;
  }

  draw(frame = this.frame) {
    this.frame = frame;
    sharpen(this.canvas, this.canvas.clientWidth, this.canvas.clientHeight);
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.imageSmoothingQuality = "high";
    if (this.ready) context.drawImage(this.video, 0, 0, width, height);
    const line = Math.max(1, width / 640);
    this.data.people.forEach((person, place) => this.drawPerson(context, person, place, line));
  }

  drawPerson(context, person, place, line) {
    const square = this.scaled(person.looks.square(this.frame));
    const chosen = place === this.person;
    if (chosen && square && this.shown.flow) this.drawFlow(context, person.looks.flow(this.frame), square, line);
    if (square && this.shown.square) this.drawSquare(context, square, line, chosen);
    if (square && this.data.people.length > 1) this.drawName(context, person.name, square, line, chosen);
    const landmarks = this.scaled(person.looks.landmarks(this.frame));
    if (chosen && landmarks && this.shown.landmarks) this.drawLandmarks(context, landmarks, line);
  }

  scaled(points) {
    return points && points.map(([x, y]) => [x * this.canvas.width, y * this.canvas.height]);
  }

  drawFlow(context, flow, square, line) {
    if (!flow) return;
    if (this.style === "tint") this.drawTint(context, flow, square);
    else this.drawArrows(context, flow, square, line);
  }

  /** Hue by direction, as strong as the flow is long. */
  drawTint(context, flow, square) {
    const { grid } = this.data.look;
    const brush = this.tint.getContext("2d");
    const picture = brush.createImageData(grid + 2, grid + 2);
    const longest = this.longest[this.person];
    for (let row = 0; row < grid; row += 1) {
      for (let column = 0; column < grid; column += 1) {
        const [dx, dy] = this.flowAt(flow, row * grid + column);
        const place = 4 * ((row + 1) * (grid + 2) + column + 1);
        picture.data.set(directionHue(dx, dy), place);
        picture.data[place + 3] = 165 * Math.min(1, Math.hypot(dx, dy) / longest);
      }
    }
    brush.putImageData(picture, 0, 0);
    context.save();
    context.setTransform(...this.toSquare(square));
    context.drawImage(this.tint, -1 / grid, -1 / grid, 1 + 2 / grid, 1 + 2 / grid);
    context.restore();
  }

  flowAt(flow, cell) {
    return [flow.values[cell] * flow.step, flow.values[this.data.look.grid ** 2 + cell] * flow.step];
  }

  /** From fractions of the square to the canvas: a matrix as canvases take it. */
  toSquare([first, second, , fourth]) {
    return [second[0] - first[0], second[1] - first[1], fourth[0] - first[0], fourth[1] - first[1], ...first];
  }

  drawArrows(context, flow, square, line) {
    const { grid } = this.data.look;
    const [a, b, c, d, e, f] = this.toSquare(square);
    const cell = Math.hypot(a, b) / grid;
    const scale = (1.6 * cell) / this.longest[this.person];
    const heads = new Path2D();
    for (let row = 0; row < grid; row += 1) {
      for (let column = 0; column < grid; column += 1) {
        const [dx, dy] = this.flowAt(flow, row * grid + column).map((value) => value * scale);
        if (Math.hypot(dx, dy) < 0.12 * cell) continue;
        const [x, y] = [(column + 0.5) / grid, (row + 0.5) / grid];
        addArrow(heads, a * x + c * y + e, b * x + d * y + f, dx, dy);
      }
    }
    strokeTwice(context, heads, "#7fd0ff", 1.3 * line);
  }

  drawSquare(context, square, line, chosen) {
    context.globalAlpha = chosen ? 1 : 0.55;
    strokeTwice(context, chainPath(square.concat([square[0]])), LIGHT, line);
    context.globalAlpha = 1;
  }

  drawName(context, name, square, line, chosen) {
    const [x, y] = square.reduce((best, corner) => (corner[1] < best[1] ? corner : best));
    context.font = `${chosen ? 600 : 400} ${Math.round(13 * line + 2)}px ${getComputedStyle(document.body).fontFamily}`;
    context.lineWidth = 3 * line;
    context.lineJoin = "round";
    context.strokeStyle = HALO;
    context.fillStyle = chosen ? MARK : LIGHT;
    context.strokeText(name, x, y - 6 * line);
    context.fillText(name, x, y - 6 * line);
  }

  drawLandmarks(context, landmarks, line) {
    const path = new Path2D();
    for (const chain of this.data.look.skeleton) path.addPath(chainPath(chain.map((point) => landmarks[point])));
    strokeTwice(context, path, MARK, 1.4 * line);
  }

  /** The person whose square holds a point of the window; −1 for none. */
  personAt(x, y) {
    const box = this.canvas.getBoundingClientRect();
    const point = [(x - box.left) / box.width, (y - box.top) / box.height];
    return this.data.people.findIndex((person) => {
      const square = person.looks.square(this.frame);
      return square && isInside(point, square);
    });
  }

  describe() {
    const on = Object.keys(this.shown).filter((name) => this.shown[name]);
    return `frame ${this.data.numbers[this.frame]}; shown on it: ${on.join(", ") || "nothing"}`;
  }
}

function chainPath(points) {
  const path = new Path2D();
  points.forEach(([x, y], place) => (place ? path.lineTo(x, y) : path.moveTo(x, y)));
  return path;
}

function addArrow(path, x, y, dx, dy) {
  path.moveTo(x, y);
  path.lineTo(x + dx, y + dy);
  for (const turn of [2.6, -2.6]) {
    path.moveTo(x + dx, y + dy);
    path.lineTo(
      x + dx + 0.32 * (dx * Math.cos(turn) - dy * Math.sin(turn)),
      y + dy + 0.32 * (dx * Math.sin(turn) + dy * Math.cos(turn)),
    );
  }
}

/** A line over a dark one, to be seen on any ground. */
function strokeTwice(context, path, colour, width) {
  context.lineJoin = context.lineCap = "round";
  context.strokeStyle = HALO;
  context.lineWidth = 2.2 * width;
  context.stroke(path);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

/** Whether a point lies in a convex polygon. */
function isInside([x, y], corners) {
  const sides = corners.map(([cx, cy], place) => {
    const [nx, ny] = corners[(place + 1) % corners.length];
    return (nx - cx) * (y - cy) - (ny - cy) * (x - cx) >= 0;
  });
  return sides.every((side) => side === sides[0]);
}

/** The legend of the tint. */
function drawWheel(canvas) {
  const context = canvas.getContext("2d");
  const { width } = canvas;
  const picture = context.createImageData(width, width);
  const radius = width / 2;
  for (let row = 0; row < width; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const [dx, dy] = [(column + 0.5) / radius - 1, (row + 0.5) / radius - 1];
      const length = Math.hypot(dx, dy);
      const place = 4 * (row * width + column);
      picture.data.set(directionHue(dx, dy).map((value) => 255 - length * (255 - value)), place);
      picture.data[place + 3] = 255 * Math.max(0, Math.min(1, (1 - length) * radius));
    }
  }
  context.putImageData(picture, 0, 0);
}
