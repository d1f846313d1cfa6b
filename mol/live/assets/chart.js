// The probabilities of the last half minute, as lines that run to the left.

const SHOWN = 30; // seconds
const LEFT = 30;
const BELOW = 18;

class Chart {
  /** @param classes names, in the order of the colours */
  constructor(canvas, classes) {
    this.canvas = canvas;
    this.classes = classes;
    this.rows = []; // {at: seconds, values: probabilities, or null where there are none}
    this.recolour();
  }

  recolour() {
    this.colours = readColours(this.classes.length);
    this.draw();
  }

  add(at, values) {
    this.rows.push({ at, values });
    const first = this.rows.findIndex((row) => row.at >= at - SHOWN - 1);
    if (first > 0) this.rows.splice(0, first);
  }

  draw(now = this.rows.length ? this.rows.at(-1).at : 0) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    sharpen(this.canvas, width, height);
    const context = this.canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const x = (at) => width - ((now - at) / SHOWN) * (width - LEFT);
    const y = (value) => 6 + (1 - value) * (height - BELOW - 6);
    this.drawGrid(context, width, height, x, y, now);
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, width - LEFT, height);
    context.clip();
    this.classes.forEach((_, place) => this.drawLine(context, place, x, y));
    context.restore();
  }

  drawGrid(context, width, height, x, y, now) {
    context.font = `11px ${this.colours.font}`;
    context.fillStyle = this.colours.muted;
    context.strokeStyle = this.colours.rule;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const value of [0, 0.5, 1]) {
      const row = Math.round(y(value)) + 0.5;
      line(context, LEFT, row, width, row);
      context.fillText(String(value), LEFT - 7, row);
    }
    context.textBaseline = "alphabetic";
    for (let back = 0; back <= SHOWN; back += 10) {
      const column = Math.min(width - 0.5, Math.round(x(now - back)) + 0.5);
      line(context, column, y(1), column, y(0));
      context.textAlign = back ? (back === SHOWN ? "left" : "center") : "right";
      context.fillText(back ? `−${back} s` : "now", column, height - 3);
    }
  }

  drawLine(context, place, x, y) {
    context.strokeStyle = this.colours.classes[place];
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.setLineDash(place < 8 ? [] : [6, 3]); // hues repeat from the ninth class on
    context.beginPath();
    let last = null;
    for (const { at, values } of this.rows) {
      if (values) {
        if (last !== null && at - last < 1) context.lineTo(x(at), y(values[place]));
        else context.moveTo(x(at), y(values[place]));
      }
      last = values ? at : null;
    }
    context.stroke();
    context.setLineDash([]);
  }
}

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}
