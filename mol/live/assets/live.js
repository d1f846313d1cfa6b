// The page: what its parts do to one another.

const THEMES = ["system", "light", "dark"];
const WAITING = 4; // own frames that have no reading yet, at most: the rest is dropped here
const PATIENCE = 2000; // milliseconds after which none is expected any more

class Live {
  constructor() {
    this.held = false;
    this.sent = new Map(); // number → {canvas, captured}
    this.latencies = [];
    this.shown = { landmarks: true, flow: true, square: true };
    this.style = "tint";
    this.longest = 0.5;
    this.claiming = null;
    this.listen();
    this.link = new Link({
      message: (message, picture) => this[`hear_${message.kind}`]?.(message, picture, performance.now()),
      open: () => this.say("Waiting for the program …"),
      closed: (why) => this.closed(why),
    });
  }

  // ---- what the program says

  hear_hello(hello) {
    this.hello = hello;
    this.problem();
    this.isCamera = hello.source === "camera";
    document.title = this.isCamera ? "MOL live" : `MOL live: ${hello.film.name}`;
    find("kind").textContent = hello.probability[0].toUpperCase() + hello.probability.slice(1);
    find("network").textContent = `${hello.network}, ${hello.precision}`;
    find("notes").replaceChildren(...hello.notes.map((note) => make("li", note)));
    this.bars = this.writeBars(hello.classes);
    this.chart = new Chart(find("chart"), hello.classes);
    this.recording(hello.recording);
    this.look = null;
    this.film(hello.film_state);
  }

  hear_camera({ whose }) {
    this.whose = whose;
    if (whose === "here") this.say("The camera is on");
    else if (this.camera?.running && whose === "nobody") this.link.send({ kind: "claim" }); // said before the claim was heard
    else if (this.camera?.running) this.dropCamera();
    if (whose === "elsewhere") this.say("The camera of another page is shown; it can be started here when that one has stopped.");
    if (whose === "nobody") this.say("");
    if (whose !== "here" && this.claiming) this.claiming = null;
    this.showControls();
  }

  hear_playing() {
    this.film("playing");
  }

  hear_ended({ why }) {
    this.film("ended");
    if (why) this.problem(["The film cannot be read on", why]);
  }

  hear_recording({ folder, why }) {
    this.recording(folder);
    if (why) this.problem(["Nothing is recorded any more", why]);
  }

  hear_refused({ why }) {
    this.problem(["A frame was refused", why]);
  }

  hear_reading(reading, picture, received) {
    const own = this.sent.get(reading.number);
    if (this.whose === "here" && !picture && !own) return; // of a frame that is none of this camera's
    for (const number of this.sent.keys()) if (number <= reading.number) this.sent.delete(number);
    if (this.held) {
      picture?.close();
      return;
    }
    const shown = own ? own.canvas : picture;
    if (shown) this.showPicture(shown, reading);
    this.showNumbers(reading);
    const now = performance.now();
    // Of a camera elsewhere, or a film, this machine's clock knows how old the reading was when it was sent.
    const latency = own ? now - own.captured : reading.age_ms + now - received;
    this.showSpeed(reading, latency);
    if (picture) picture.close();
    document.body.dataset.readings = Number(document.body.dataset.readings || 0) + 1;
    if (reading.probabilities) document.body.dataset.windows = Number(document.body.dataset.windows || 0) + 1;
  }

  closed(why) {
    this.dropCamera();
    this.sent.clear();
    this.say("");
    const full = ["Too many pages are open", "Close one of the other pages of this live view, then load this one again."];
    const gone = ["The program has ended, or cannot be reached", "Start mol live again and open the new address. This page keeps trying the old one."];
    this.problem(why === "full" ? full : gone);
    this.showControls();
  }

  // ---- what is shown

  showPicture(source, reading) {
    const [width, height] = reading.size;
    if (!this.look || this.look.size.join() !== reading.size.join()) this.makeStage(width, height);
    this.look.reading = reading;
    this.frame.getContext("2d").drawImage(source, 0, 0, width, height);
    this.stage.ready = true;
    this.updateFlow(reading.flow);
    this.stage.draw(0);
  }

  makeStage(width, height) {
    this.frame = Object.assign(make("canvas"), { width, height });
    const look = { size: [width, height], reading: null };
    look.landmarks = () => look.reading?.landmarks;
    look.square = () => look.reading?.square;
    look.flow = () => look.reading?.flow;
    look.longestFlow = () => this.longest;
    this.look = look;
    const data = { look: { grid: this.hello.grid, skeleton: this.hello.skeleton }, people: [{ looks: look }], size: [width, height] };
    this.stage = new Stage(find("picture"), data, this.frame);
    this.stage.shown = this.shown;
    this.stage.style = this.style;
  }

  /** The length that is drawn in full follows the longest flow of late. */
  updateFlow(flow) {
    find("legend").hidden = !flow;
    if (!flow) return;
    const half = flow.values.length / 2;
    let longest = 0;
    for (let cell = 0; cell < half; cell += 1) longest = Math.max(longest, flow.step * Math.hypot(flow.values[cell], flow.values[half + cell]));
    this.longest = Math.max(0.5, longest, 0.985 * this.longest);
    this.stage.longest[0] = this.longest;
    find("scale").textContent = `full colour: ${this.longest.toFixed(1)} px of the square from frame to frame`;
  }

  showNumbers(reading) {
    const { probabilities, still } = reading;
    const winner = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
    this.bars.forEach(({ row, bar, mark, value }, place) => {
      row.classList.toggle("most", place === winner);
      bar.style.width = probabilities ? `${100 * probabilities[place]}%` : "0";
      value.textContent = probabilities ? probabilities[place].toFixed(2) : "–";
      mark.hidden = !still;
      if (still) mark.style.left = `${100 * still[place]}%`;
    });
    const apart = probabilities && still ? probabilities.reduce((sum, value, place) => sum + Math.abs(value - still[place]), 0) / 2 : null;
    find("atrest").lastElementChild.textContent = apart === null ? "–" : apart.toFixed(2);
    this.chart.add(performance.now() / 1000, probabilities);
    this.chart.draw();
    this.say(this.stateOf(reading));
  }

  stateOf({ faces, filled, of, probabilities, lasts }) {
    if (!faces) return "No face is found: upright, roughly frontal, in good light";
    if (!probabilities) return filled < of ? `Filling the window: ${filled} of ${of} frames` : "The face has moved far; a new window begins";
    if (lasts > 1.25 * this.hello.longest) return `This machine is slow: a window lasts ${lasts.toFixed(1)} s, a micro-expression at most ${this.hello.longest} s`;
    if (faces > 1) return `${faces} faces; the largest is read`;
    return this.whose === "elsewhere" ? "The camera of another page" : "";
  }

  showSpeed(reading, latency) {
    const now = performance.now();
    this.latencies.push([now, latency]);
    while (this.latencies[0][0] < now - 3000) this.latencies.shift();
    const sorted = this.latencies.map(([, value]) => value).sort((a, b) => a - b);
    const middle = sorted[sorted.length >> 1];
    document.body.dataset.latency = middle.toFixed(0);
    document.body.dataset.rate = reading.rate;
    find("rate").textContent = reading.rate.toFixed(1);
    find("latency").textContent = `${middle.toFixed(0)} ms`;
    find("work").textContent = `${reading.face_ms.toFixed(0)} + ${reading.network_ms.toFixed(0)} ms`;
    find("lasts").textContent = reading.lasts ? `${reading.lasts.toFixed(2)} s` : "–";
    find("lasts").classList.toggle("slow", reading.lasts > 1.25 * this.hello.longest);
    find("dropped").textContent = String(reading.dropped);
  }

  writeBars(names) {
    const rows = names.map((name, place) => {
      const [row, bar, mark, value] = [make("div"), make("i"), make("b", "", { hidden: true, title: "the same face at rest" }), make("dd", "–")];
      bar.style.background = `var(--class-${place})`;
      bar.style.width = "0";
      const track = make("span", "", { className: "bar" });
      track.append(bar, mark);
      row.append(make("dt", readable(name), { title: readable(name) }), track, value);
      return { row, bar, mark, value };
    });
    find("classes").replaceChildren(...rows.map(({ row }) => row));
    return rows;
  }

  recording(folder) {
    find("recording").hidden = !folder;
    find("recording").lastElementChild.textContent = folder ? `to ${folder}` : "";
  }

  film(state) {
    if (this.isCamera) return;
    find("again").hidden = state !== "ended";
    this.say(state === "ended" ? "The film has ended" : state === "playing" ? "" : "Opening the film …");
  }

  say(text) {
    if (find("state").textContent !== text) find("state").textContent = text;
  }

  /** Show what went wrong and what to do about it; nothing takes it away. */
  problem(words) {
    find("problem").hidden = !words;
    if (words) [find("problem").firstElementChild.textContent, find("problem").lastElementChild.textContent] = words;
  }

  showControls() {
    const on = Boolean(this.camera?.running);
    const free = this.isCamera && !on && this.whose === "nobody" && !this.claiming;
    find("start").hidden = !free;
    find("stop").hidden = !on;
  }

  // ---- the camera

  async startCamera() {
    if (!this.isCamera || this.camera?.running || this.whose !== "nobody" || this.claiming) return;
    this.problem();
    const camera = new Camera(
      { apart: this.hello.apart, most: this.hello.most_pixels },
      (message, canvas, number, captured) => this.sendFrame(message, canvas, number, captured),
      (words) => this.cameraGone(words),
    );
    camera.ready = () => this.whose === "here" && !this.link.jammed && this.waiting() < WAITING;
    this.camera = camera;
    this.claiming = camera;
    this.showControls();
    this.say("Asking the browser for the camera …");
    try {
      await camera.start(find("camera").value, this.hello.camera);
      this.claiming = null;
      this.sent.clear();
      this.link.send({ kind: "claim" });
      await this.listCameras();
    } catch (error) {
      camera.stop();
      this.claiming = null;
      this.say("");
      this.problem(cameraProblem(error));
    }
    this.showControls();
  }

  async listCameras() {
    const cameras = await Camera.list();
    find("cameras").hidden = cameras.length < 2;
    find("camera").replaceChildren(
      ...cameras.map(({ deviceId, label }, place) => make("option", label || `Camera ${place}`, { value: deviceId, selected: deviceId === this.camera.id })),
    );
  }

  sendFrame(message, canvas, number, captured) {
    this.sent.set(number, { canvas, captured });
    this.link.send(message);
  }

  waiting() {
    const oldest = performance.now() - PATIENCE;
    for (const [number, { captured }] of this.sent) if (captured < oldest) this.sent.delete(number);
    return this.sent.size;
  }

  cameraGone(words) {
    this.problem(words);
    this.stopCamera();
  }

  stopCamera() {
    this.dropCamera();
    this.link.send({ kind: "release" });
  }

  dropCamera() {
    this.camera?.stop();
    this.sent.clear();
    this.showControls();
  }

  // ---- what the reader does

  listen() {
    const press = (id, act) => find(id).addEventListener("click", act);
    press("go", () => this.startCamera());
    press("stop", () => this.stopCamera());
    press("again", () => this.link.send({ kind: "again" }));
    press("hold", () => this.hold());
    press("theme", () => this.nextTheme());
    press("help", () => find("keys").showModal());
    for (const id of ["landmarks", "flow", "square"]) press(id, () => this.toggle(id));
    find("style").addEventListener("change", () => this.setStyle(find("style").value));
    find("camera").addEventListener("change", async () => {
      this.stopCamera();
      this.whose = "nobody";
      await this.startCamera();
    });
    document.addEventListener("keydown", (event) => this.key(event));
    const redraw = () => {
      this.stage?.draw(0);
      this.chart?.recolour();
    };
    window.addEventListener("resize", redraw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    drawWheel(find("wheel"));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || find("keys").open) return;
    if (["SELECT", "INPUT"].includes(event.target.tagName) && event.key !== "Escape") return;
    if (event.key === " " && event.target.tagName === "BUTTON") return;
    const acts = {
      " ": () => this.hold(),
      c: () => (this.camera?.running ? this.stopCamera() : this.startCamera()),
      l: () => this.toggle("landmarks"),
      f: () => this.toggle("flow"),
      s: () => this.toggle("square"),
      a: () => this.setStyle(this.style === "tint" ? "arrows" : "tint"),
      t: () => this.nextTheme(),
      "?": () => find("keys").showModal(),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  hold() {
    this.held = !this.held;
    find("hold").setAttribute("aria-label", this.held ? "Go on" : "Hold the picture");
    find("hold").title = this.held ? "Go on (space)" : "Hold the picture (space)";
    find("hold").querySelector("use").setAttribute("href", this.held ? "#i-play" : "#i-pause");
    if (this.held) this.say("Held; the network reads on");
  }

  toggle(name) {
    this.shown[name] = !this.shown[name];
    find(name).setAttribute("aria-pressed", String(this.shown[name]));
    this.stage?.draw(0);
  }

  setStyle(style) {
    this.style = style;
    find("style").value = style;
    find("legend").classList.toggle("plain", style !== "tint");
    if (this.stage) {
      this.stage.style = style;
      this.stage.draw(0);
    }
  }

  nextTheme() {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "system") + 1) % THEMES.length];
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    find("theme").querySelector("span").textContent = theme[0].toUpperCase() + theme.slice(1);
    find("theme").setAttribute("aria-label", `Theme: ${theme === "system" ? "as the system" : theme}`);
    this.chart?.recolour();
  }
}

const live = new Live();
