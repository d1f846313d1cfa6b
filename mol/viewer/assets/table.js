// The table of expressions, and files to save.

class Table {
  /**
   * @param data of the page
   * @param act {loop(expression)}
   * @param changed called when other kinds are shown
   */
  constructor(data, act, changed) {
    this.data = data;
    this.act = act;
    this.changed = changed;
    this.hidden = new Set();
    this.rows = new Map();
  }

  visible(one) {
    return !this.hidden.has(one.kind);
  }

  setPerson(person) {
    this.person = person;
    this.writeChips();
    this.writeRows();
  }

  writeChips() {
    const counts = new Map();
    for (const one of this.person.expressions) counts.set(one.kind, (counts.get(one.kind) || 0) + 1);
    const chips = ["micro", "macro", "blink"].filter((kind) => counts.has(kind)).map((kind) => {
      const chip = make("button", `${kind} ${counts.get(kind)}`, { type: "button" });
      chip.setAttribute("aria-pressed", String(!this.hidden.has(kind)));
      chip.addEventListener("click", () => this.toggle(kind, chip));
      return chip;
    });
    find("chips").replaceChildren(...(chips.length > 1 ? chips : []));
  }

  toggle(kind, chip) {
    if (!this.hidden.delete(kind)) this.hidden.add(kind);
    chip.setAttribute("aria-pressed", String(!this.hidden.has(kind)));
    this.writeRows();
    this.changed();
  }

  writeRows() {
    const { expressions, spotted } = this.person;
    const shown = expressions.filter((one) => this.visible(one));
    this.rows = new Map(shown.map((one) => [one, this.row(one)]));
    find("rows").replaceChildren(...this.rows.values());
    find("found").hidden = !shown.length;
    find("none").hidden = shown.length > 0;
    find("none").textContent = !spotted
      ? "Nothing looked for expressions in this film: mol spot does, and marks them here."
      : expressions.length
        ? "All kinds are hidden."
        : "No expression was found.";
    find("save-expressions").hidden = !spotted;
  }

  row(one) {
    const row = make("tr");
    const head = make("th", "", { scope: "row" });
    const button = make("button", one.emotion ? readable(one.emotion) : one.kind, { type: "button", title: "Loop it slowly" });
    const key = make("i");
    const place = this.data.classes.indexOf(one.emotion);
    key.style.background = place < 0 ? "var(--muted)" : `var(--class-${place})`;
    button.prepend(key);
    button.addEventListener("click", () => this.act.loop(one));
    head.append(button);
    const cells = [
      one.kind,
      one.onset.toFixed(3),
      one.apex.toFixed(3),
      one.offset.toFixed(3),
      one.duration.toFixed(3),
      `${one.frames[0]}–${one.frames[2]}`,
      one.confidence.toFixed(2),
    ];
    row.append(head, ...cells.map((text) => make("td", text)));
    row.addEventListener("click", (event) => event.target.closest("button") || this.act.loop(one));
    return row;
  }

  /** Mark the expression that is looped, and those at a time. */
  mark(active, seconds) {
    for (const [one, row] of this.rows) {
      row.classList.toggle("active", one === active);
      row.classList.toggle("here", one.onset <= seconds && seconds < one.end);
    }
  }

  saveExpressions() {
    const rows = this.data.people.flatMap((person) => person.expressions.map((one) => one.row));
    save(`${this.data.file}-expressions.csv`, csv(this.data.columns, rows));
  }

  saveSeries() {
    const header = [
      "person",
      "seconds",
      ...this.data.classes.map((name) => `probability_${name}`),
      ...this.data.regions.map((name) => `flow_${name}`),
    ];
    save(`${this.data.file}-values.csv`, csv(header, this.data.people.flatMap((person) => this.seriesRows(person))));
  }

  seriesRows(person) {
    const classes = this.data.classes.length;
    const regions = this.data.regions.length;
    const rounded = (value) => (Number.isFinite(value) ? Number(value.toFixed(4)) : "");
    return Array.from(person.times, (seconds, row) => [
      person.name,
      rounded(seconds),
      ...Array.from({ length: classes }, (_, place) => rounded(person.probabilities[row * classes + place])),
      ...Array.from({ length: regions }, (_, place) => rounded(person.strength[row * regions + place])),
    ]);
  }
}

// A cell that no spreadsheet takes for a formula, as mol/common/storage.py writes it.
const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/;
const NUMBER = /^([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?%?|[+-]?(inf|nan)|[^\n]?)$/i;

function csvCell(value) {
  let text = String(value);
  if (typeof value === "string" && !NUMBER.test(text)) {
    const shielded = text.startsWith("'") && (text[1] === "'" || FORMULA.test(text.slice(1)));
    if (FORMULA.test(text) || shielded) text = `'${text}`;
  }
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csv = (header, rows) => [header, ...rows].map((row) => `${row.map(csvCell).join(",")}\n`).join("");

/** Let the reader save a text as a file. */
function save(name, text) {
  const link = make("a", "", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
