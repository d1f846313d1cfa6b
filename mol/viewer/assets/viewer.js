// The page: what its buttons, keys and parts do to one another.

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const LOOP_SPEED = 0.25;
const THEMES = ["system", "light", "dark"];

class Viewer {
  constructor(data, parts) {
    this.data = data;
    this.person = data.people[0];
    this.active = null; // the expression that is looped
    this.chosen = null; // the one that was gone to
    this.before = 1;
    this.film = new Film(parts, data, (frame) => this.show(frame));
    this.stage = new Stage(find("picture"), data, this.film.video);
    const act = { seek: (seconds) => this.seekTime(seconds), loop: (one) => this.loop(one) };
    this.timeline = new Timeline(data, act);
    this.table = new Table(data, act, () => this.timeline.draw());
    this.timeline.visible = (one) => this.table.visible(one);
    this.bars = this.writeBars("classes", data.classes, (place) => `var(--class-${place})`);
    this.regions = this.writeBars("regions", data.regions, () => "var(--deep)");
    this.fill();
    this.listen();
    this.setPerson(0);
  }

  /** What does not change. */
  fill() {
    find("speed").replaceChildren(...SPEEDS.map((speed) => make("option", `${speed}×`, { value: speed, selected: speed === 1 })));
    find("kind").textContent = this.data.probability[0].toUpperCase() + this.data.probability.slice(1);
    find("who").hidden = this.data.people.length < 2;
    find("person").replaceChildren(...this.data.people.map(({ name }, place) => make("option", name, { value: place })));
    find("lanes").setAttribute("aria-valuemax", String(this.data.duration));
    for (const id of ["previous", "next"]) find(id).disabled = !this.data.people.some((person) => person.expressions.length);
    const hasFlow = this.data.people.some((person) => person.looks.hasFlow);
    for (const id of ["flow", "style"]) find(id).disabled = !hasFlow;
    for (const id of ["landmarks", "square"]) find(id).disabled = !this.data.people.some((person) => person.looks.count);
    find("legend").hidden = !hasFlow;
    if (hasFlow) drawWheel(find("wheel"));
  }

  /** A row with a bar for each name. */
  writeBars(id, names, colour) {
    const rows = names.map((name, place) => {
      const [row, bar, value] = [make("div"), make("i"), make("dd")];
      bar.style.background = colour(place);
      const track = make("span", "", { className: "bar" });
      track.append(bar);
      row.append(make("dt", readable(name), { title: readable(name) }), track, value);
      return { row, bar, value };
    });
    find(id).replaceChildren(...rows.map(({ row }) => row));
    return rows;
  }

  // ---- what is shown

  /** A frame has been drawn by the video: put it on the page with all that belongs to it. */
  show(frame) {
    const seconds = this.data.seconds[frame];
    this.stage.draw(frame);
    this.timeline.setNow(seconds);
    this.table.mark(this.active, seconds);
    find("clock").value = clockTime(seconds);
    find("frame").textContent = `frame ${this.data.numbers[frame]} / ${this.data.frames - 1}`;
    document.body.dataset.frame = this.data.numbers[frame];
    const lanes = find("lanes");
    lanes.setAttribute("aria-valuenow", seconds.toFixed(3));
    lanes.setAttribute("aria-valuetext", `${clockTime(seconds)}, frame ${this.data.numbers[frame]}`);
    find("picture").setAttribute("aria-label", `The film, ${this.stage.describe()}`);
    this.showBars(seconds);
    this.showPlaying();
  }

  /** Values of the window that is nearest in time, if one is near. */
  showBars(seconds) {
    const { times, probabilities, strength } = this.person;
    const row = nearest(times, seconds);
    const known = times.length && Math.abs(times[row] - seconds) <= Math.max(1, 2 * this.timeline.usualStep(times));
    const values = (all, count) => (known ? all.subarray(row * count, (row + 1) * count) : []);
    const now = values(probabilities, this.bars.length);
    this.fillBars(this.bars, now, 1, 2);
    this.bars.forEach((bar, place) => bar.row.classList.toggle("most", now[place] === Math.max(...now)));
    find("movement").hidden = !strength.length;
    if (strength.length) this.fillBars(this.regions, values(strength, this.regions.length), this.timeline.strongest(), 2);
  }

  fillBars(bars, values, full, digits) {
    bars.forEach(({ bar, value }, place) => {
      const known = Number.isFinite(values[place]);
      bar.style.width = `${known ? Math.min(100, (100 * values[place]) / full) : 0}%`;
      value.textContent = known ? values[place].toFixed(digits) : "–";
    });
  }

  showPlaying() {
    const { paused } = this.film;
    if (this.wasPaused === paused) return;
    this.wasPaused = paused;
    find("play").setAttribute("aria-label", paused ? "Play" : "Pause");
    find("play").title = paused ? "Play (space)" : "Pause (space)";
    find("play").querySelector("use").setAttribute("href", paused ? "#i-play" : "#i-pause");
  }

  setPerson(place) {
    this.leave();
    this.chosen = null;
    this.person = this.data.people[place];
    find("person").value = String(place);
    this.stage.person = place;
    this.explainFlow();
    this.table.setPerson(this.person);
    this.timeline.setPerson(this.person);
    this.show(this.film.frame);
  }

  toggle(name) {
    if (find(name).disabled) return;
    this.stage.shown[name] = !this.stage.shown[name];
    find(name).setAttribute("aria-pressed", String(this.stage.shown[name]));
    this.show(this.film.frame);
  }

  setStyle(style) {
    if (find("style").disabled) return;
    this.stage.style = find("style").value = style;
    this.explainFlow();
    this.show(this.film.frame);
  }

  explainFlow() {
    const isTint = this.stage.style === "tint";
    const longest = `${this.stage.longest[this.stage.person].toPrecision(2)} px of the 128 px square`;
    find("legend").classList.toggle("plain", !isTint);
    find("scale").textContent = isTint
      ? `hue: where to; rim: ${longest}`
      : `arrows are enlarged; the longest: ${longest}`;
  }

  // ---- time

  playOrPause() {
    if (this.film.paused) this.film.play();
    else this.film.pause();
    this.showPlaying();
  }

  step(frames) {
    this.film.pause();
    this.seek(this.film.target + frames);
  }

  skip(seconds) {
    this.seekTime(this.data.seconds[this.film.target] + seconds);
  }

  seekTime(seconds) {
    this.seek(nearest(this.data.seconds, seconds));
  }

  /** Going elsewhere leaves the loop. */
  seek(frame) {
    if (this.film.loop && (frame < this.film.loop.first || frame > this.film.loop.last)) this.leave();
    this.film.seek(frame);
  }

  setSpeed(speed) {
    this.film.setSpeed(speed);
    find("speed").value = String(speed);
  }

  changeSpeed(step) {
    const place = SPEEDS.indexOf(this.film.speed);
    this.setSpeed(SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, place + step))]);
  }

  // ---- expressions

  loop(one) {
    if (!this.active) this.before = this.film.speed;
    if (this.active !== one && !this.film.loop) this.setSpeed(LOOP_SPEED);
    this.active = this.timeline.active = one;
    this.setLoop();
    find("looping").hidden = false;
    find("looped").textContent = `Looping ${readable(one.emotion || one.kind)}, ${clockTime(one.onset)} to ${clockTime(one.end)}`;
    this.timeline.reveal(one.onset, one.end);
    this.timeline.draw();
    this.table.mark(one, one.onset);
    this.film.seek(this.film.loop.first);
    this.film.play();
    this.showPlaying();
  }

  setLoop() {
    const margin = Number(find("margin").value);
    const first = lastUpTo(this.data.seconds, this.active.onset - margin + 1e-6);
    const last = lastUpTo(this.data.seconds, Math.min(this.active.end + margin, this.data.duration) - 1e-6);
    this.film.loop = { first, last: Math.max(first + 1, last) };
    if (this.film.loop.last >= this.data.seconds.length) this.film.loop.last = this.data.seconds.length - 1;
  }

  leave() {
    if (!this.active) return;
    this.active = this.timeline.active = this.film.loop = null;
    find("looping").hidden = true;
    this.film.pause();
    this.setSpeed(this.before);
    this.timeline.draw();
    this.show(this.film.frame);
  }

  /** The frame of the page that shows an apex best: of a long film the page may hold none closer. */
  frameOf(one) {
    return nearest(this.data.seconds, one.apex);
  }

  /** The expression that was gone to, while its frame is shown. */
  current() {
    return this.active || (this.chosen && this.film.target === this.frameOf(this.chosen) ? this.chosen : null);
  }

  /** Go to the apex of the next or previous expression; loop it if one is looped. */
  neighbour(direction) {
    const shown = this.person.expressions.filter((one) => this.table.visible(one));
    const one = this.neighbourIn(shown, direction);
    if (!one) return;
    this.chosen = one;
    if (this.active) this.loop(one);
    else {
      this.film.pause();
      this.seek(this.frameOf(one));
      this.timeline.reveal(one.onset, one.end);
    }
  }

  neighbourIn(shown, direction) {
    const place = shown.indexOf(this.current());
    if (place >= 0) return shown[place + direction];
    const now = this.data.seconds[this.film.target];
    return direction > 0 ? shown.find(({ apex }) => apex > now + 1e-6) : shown.findLast(({ apex }) => apex < now - 1e-6);
  }

  loopHere() {
    const now = this.data.seconds[this.film.target];
    const here = this.person.expressions.filter((one) => this.table.visible(one) && one.onset <= now && now < one.end);
    const one = this.current() || here.sort((a, b) => a.duration - b.duration)[0];
    if (one) this.loop(one);
  }

  // ---- listening

  listen() {
    const clicks = {
      play: () => this.playOrPause(),
      back: () => this.step(-1),
      forward: () => this.step(1),
      previous: () => this.neighbour(-1),
      next: () => this.neighbour(1),
      landmarks: () => this.toggle("landmarks"),
      flow: () => this.toggle("flow"),
      square: () => this.toggle("square"),
      leave: () => this.leave(),
      in: () => this.timeline.zoom(0.5),
      out: () => this.timeline.zoom(2),
      whole: () => this.timeline.zoom(Infinity),
      help: () => find("keys").showModal(),
      "save-expressions": () => this.table.saveExpressions(),
      "save-series": () => this.table.saveSeries(),
    };
    for (const [id, act] of Object.entries(clicks)) find(id).addEventListener("click", act);
    find("speed").addEventListener("change", (event) => this.setSpeed(Number(event.target.value)));
    find("margin").addEventListener("change", () => this.active && this.setLoop());
    find("style").addEventListener("change", (event) => this.setStyle(event.target.value));
    find("person").addEventListener("change", (event) => this.setPerson(Number(event.target.value)));
    find("picture").addEventListener("click", (event) => this.clickPicture(event));
    for (const name of ["play", "pause", "ended"]) this.film.video.addEventListener(name, () => this.showPlaying());
    document.addEventListener("keydown", (event) => this.key(event));
    this.freeKeys();
    new ResizeObserver(() => this.stage.draw()).observe(find("picture"));
  }

  /** What was pressed with a pointer keeps no focus: space and arrows then play and step again. */
  freeKeys() {
    let byPointer = false;
    document.addEventListener("pointerdown", () => (byPointer = true), true);
    document.addEventListener("keydown", () => (byPointer = false), true);
    for (const name of ["click", "change"]) {
      document.addEventListener(name, ({ target }) => {
        const control = target.closest("button, select");
        if (byPointer && control && (name === "change" || control.tagName === "BUTTON")) control.blur();
      });
    }
  }

  clickPicture(event) {
    const place = this.stage.personAt(event.clientX, event.clientY);
    if (place >= 0 && this.data.people[place] !== this.person) this.setPerson(place);
    else this.playOrPause();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || find("keys").open) return;
    // Lists and buttons keep the keys that they need themselves.
    const own = { SELECT: /^(Arrow|Home|End|Enter| |.$)/, BUTTON: /^( |Enter)$/, SUMMARY: /^( |Enter)$/ }[event.target.tagName];
    if (own?.test(event.key)) return;
    const act = this.keys()[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act(event);
  }

  keys() {
    return {
      " ": () => this.playOrPause(),
      ArrowLeft: ({ shiftKey }) => (shiftKey ? this.skip(-1) : this.step(-1)),
      ArrowRight: ({ shiftKey }) => (shiftKey ? this.skip(1) : this.step(1)),
      Home: () => this.seek(0),
      End: () => this.seek(this.data.seconds.length - 1),
      Enter: () => this.loopHere(),
      Escape: () => this.leave(),
      n: () => this.neighbour(1),
      p: () => this.neighbour(-1),
      l: () => this.toggle("landmarks"),
      f: () => this.toggle("flow"),
      s: () => this.toggle("square"),
      a: () => this.setStyle(this.stage.style === "tint" ? "arrows" : "tint"),
      "+": () => this.changeSpeed(1),
      "=": () => this.changeSpeed(1),
      "-": () => this.changeSpeed(-1),
      z: () => this.timeline.zoom(0.5),
      x: () => this.timeline.zoom(2),
      0: () => this.timeline.zoom(Infinity),
      "?": () => find("keys").showModal(),
    };
  }
}

/** Light or dark as the system, or as the reader chooses; remembered where the browser lets pages of files remember. */
class Theme {
  constructor(changed) {
    this.changed = changed;
    this.name = "system";
    try {
      this.name = localStorage.getItem("mol-theme") || "system";
    } catch {
      // Not allowed: the system's.
    }
    this.apply(THEMES.includes(this.name) ? this.name : "system");
    find("theme").addEventListener("click", () => this.next());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.changed());
  }

  next() {
    this.apply(THEMES[(THEMES.indexOf(this.name) + 1) % THEMES.length]);
    try {
      localStorage.setItem("mol-theme", this.name);
    } catch {
      // Not allowed: forgotten with the page.
    }
    this.changed();
  }

  apply(name) {
    this.name = name;
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    find("theme").querySelector("span").textContent = name[0].toUpperCase() + name.slice(1);
    find("theme").setAttribute("aria-label", `Theme: ${name === "system" ? "as the system" : name}`);
  }
}

async function start() {
  let viewer = null;
  new Theme(() => viewer?.timeline.draw());
  viewer = new Viewer(readData(), readBytes("film"));
  try {
    await viewer.film.opened();
    viewer.stage.ready = true;
    find("waiting").hidden = true;
  } catch (error) {
    find("waiting").textContent = `The film cannot be shown: ${error.message}. The values below are complete.`;
  }
  // page.html#t=3.2 opens the page at that time.
  const time = Number(/^#t=([\d.]+)$/.exec(location.hash)?.[1]);
  viewer.show(0);
  viewer.seekTime(time || 0);
  document.body.dataset.ready = "true";
}

start();
