"use strict";
// Class names, paths and reasons are untrusted. They only become text nodes and attribute values, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const MOST_BUTTONS = 10; // With more classes, a field finds the class by its name.
  const DIGITS = "1234567890";
  const STRIP = 6; // Images shown before and after the current one.
  const COLUMNS = ["sha256", "decision", "label", "path", "given_label"];
  const CHOICES = ["label", "drop", "keep"];

  const pictures = data.pictures.map(([image, path, label, split], number) => ({
    number,
    image,
    sha256: data.images[image],
    path,
    label,
    split,
  }));
  const items = data.items.map((item, number) => ({
    ...item,
    number,
    picture: pictures[item.picture],
    twins: item.twins.map((twin) => pictures[twin]),
  }));
  const pictureOf = new Map();
  for (const item of items)
    for (const picture of [item.picture, ...item.twins])
      if (!pictureOf.has(picture.sha256)) pictureOf.set(picture.sha256, picture);
  const itemsOf = new Map();
  for (const item of items) itemsOf.set(item.picture.sha256, [...(itemsOf.get(item.picture.sha256) || []), item]);
  const earlier = new Map(
    data.decided.map(([sha256, decision, label, path]) => [
      sha256,
      { decision, label, path, given: (pictureOf.get(sha256) || {}).label || "", time: 0 },
    ]),
  );

  // ---- Decisions ----

  let local = new Map(); // SHA-256 -> {decision, label, path, given, time}; `earlier` holds what was decided before.
  let history = []; // [{at: number of the item, before: [[sha256, entry or null], ...]}], the last decision at the end.
  let current = 0;
  let changed = false; // Since the last download.
  const filter = { kind: "", label: "", undecided: false };

  const decisionOf = (sha256) => local.get(sha256) || earlier.get(sha256);
  const isPair = (item) => item.kind === "near_duplicate" && item.twins.length > 0;
  // Two files with equal bytes share one decision, so that only one of them cannot be dropped.
  const canDropTwin = (item) => isPair(item) && item.twins[0].sha256 !== item.picture.sha256;
  const isDropped = (picture) => (decisionOf(picture.sha256) || {}).decision === "drop";
  const isDecided = (item) => Boolean(decisionOf(item.picture.sha256)) || (isPair(item) && item.twins.every(isDropped));
  const proposalOf = (item) =>
    item.proposed || (itemsOf.get(item.picture.sha256).find((other) => other.proposed) || {}).proposed || null;

  function shown() {
    return items.filter(
      (item) =>
        (!filter.kind || item.kind === filter.kind) &&
        (!filter.label || item.picture.label === filter.label) &&
        (!filter.undecided || !isDecided(item)),
    );
  }

  function change(entries) {
    history.push({ at: current, before: entries.map(([sha256]) => [sha256, local.get(sha256) || null]) });
    for (const [sha256, entry] of entries) local.set(sha256, entry);
    changed = true;
  }

  function decide(decision, label, picture) {
    const item = items[current];
    if (!item || at("stage").hidden) return;
    const target = picture || item.picture;
    const wasDecided = isDecided(item);
    change([
      [target.sha256, { decision, label: label || "", path: target.path, given: target.label, time: Date.now() }],
    ]);
    say(`${said(decisionOf(target.sha256))}.`);
    if (target === item.picture || isDecided(item)) advance(wasDecided); // Else other pictures of the group are left.
    save();
    draw();
    reveal();
  }

  // On a phone, the picture and its twins fit between the upper edge and the buttons, but not below the filters.
  function reveal() {
    const isNarrow = window.matchMedia("(max-width: 40rem)").matches;
    if (isNarrow || at("stage").getBoundingClientRect().top < 0) at("stage").scrollIntoView();
  }

  // A first decision goes on to the next undecided image, a corrected one to the next image.
  function advance(wasDecided) {
    const list = shown();
    const left = list.filter((item) => !isDecided(item));
    const next = wasDecided
      ? list.find((item) => item.number > current)
      : left.find((item) => item.number > current) || left[0];
    if (next) current = next.number;
  }

  function undo() {
    const last = history.pop();
    if (!last) return;
    for (const [sha256, entry] of last.before)
      if (entry) local.set(sha256, entry);
      else local.delete(sha256);
    current = last.at;
    if (!shown().includes(items[current])) Object.assign(filter, { kind: "", label: "", undecided: false });
    changed = true;
    say("The last decision is taken back.");
    save();
    draw();
  }

  function move(step) {
    const list = shown();
    const next =
      step > 0 ? list.find((item) => item.number > current) : list.filter((item) => item.number < current).pop();
    if (next) go(next.number);
  }

  function go(number) {
    current = number;
    save();
    draw();
    reveal();
  }

  function nextUndecided() {
    const left = shown().filter((item) => !isDecided(item));
    const next = left.find((item) => item.number > current) || left[0];
    if (next) go(next.number);
  }

  // ---- The browser's storage ----

  const KEY = `tfrecord_tools.review:${data.digest}:${data.name}`;

  function opened() {
    try {
      window.localStorage.getItem(KEY);
      return window.localStorage;
    } catch {
      // Refused, for example in a sandboxed frame.
      return null;
    }
  }

  let storage = opened();

  function save() {
    try {
      if (storage) storage.setItem(KEY, JSON.stringify({ decisions: [...local], history, current, changed }));
    } catch {
      // Full, or refused since then.
      storage = null;
    }
    at("storage").hidden = Boolean(storage);
  }

  const isHash = (text) => /^[0-9a-f]{64}$/.test(text);
  const isEntry = (entry) =>
    entry &&
    CHOICES.includes(entry.decision) &&
    ["label", "path", "given"].every((key) => typeof entry[key] === "string") &&
    Number.isFinite(entry.time);

  function restore(text) {
    try {
      const state = JSON.parse(text) || { decisions: [], history: [] };
      const decisions = state.decisions.filter(([sha256, entry]) => isHash(sha256) && isEntry(entry));
      const steps = state.history.filter(
        (step) =>
          items[step.at] &&
          step.before.every(([sha256, entry]) => isHash(sha256) && (entry === null || isEntry(entry))),
      );
      local = new Map(decisions);
      history = steps;
      changed = Boolean(state.changed);
      return state.current;
    } catch {
      // Written by something else.
      return undefined;
    }
  }

  function begin() {
    const stored = storage ? restore(storage.getItem(KEY)) : undefined;
    const first = items.find((item) => !isDecided(item));
    current = items[stored] ? stored : first ? first.number : 0;
  }

  // ---- decisions.csv, RFC 4180 ----

  // A spreadsheet may take a path such as "=A1.jpg" for a formula. A sign in front of it would make it another path, so the
  // text stays as it is.
  const quoted = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function csv() {
    const order = new Map([...pictureOf.keys()].map((sha256, i) => [sha256, i]));
    const place = (sha256) => (order.has(sha256) ? order.get(sha256) : Infinity);
    const hashes = [...new Set([...earlier.keys(), ...local.keys()])];
    hashes.sort((a, b) => (place(a) < place(b) ? -1 : place(a) > place(b) ? 1 : a < b ? -1 : 1));
    const rows = hashes.map((sha256) => {
      const { decision, label, path, given } = decisionOf(sha256);
      return [sha256, decision, decision === "label" ? label : "", path, given];
    });
    return [COLUMNS, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
  }

  // Returns [[number of the first line, fields], ...]. Quotes may hold commas and line breaks.
  function parsed(text) {
    const rows = [];
    let line = 1;
    let row = [];
    let from = 1;
    const field = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)/y;
    while (field.lastIndex < text.length) {
      const start = field.lastIndex;
      const match = field.exec(text);
      if (!match) throw new Error(`line ${line}: a quote is not closed, or a text stands beside quotes.`);
      line += (text.slice(start, field.lastIndex).match(/\r\n|\n|\r/g) || []).length;
      row.push(match[1] === undefined ? match[2] : match[1].replaceAll('""', '"'));
      if (match[3] !== ",") {
        if (row.length > 1 || row[0]) rows.push([from, row]);
        row = [];
        from = line;
      } else if (field.lastIndex === text.length) {
        row.push("");
      }
    }
    if (row.length) rows.push([from, row]);
    return rows;
  }

  function uploaded(text, time) {
    const [[, header] = [1, []], ...rows] = parsed(text);
    const missing = COLUMNS.slice(0, 2).filter((name) => !header.includes(name));
    if (missing.length)
      throw new Error(
        `line 1: the column ${missing[0]} is missing. The columns must be ${COLUMNS.join(",")}, with commas between them.`,
      );
    const found = new Map();
    for (const [line, row] of rows) {
      if (row.length !== header.length)
        throw new Error(`line ${line}: ${row.length} fields instead of ${header.length}.`);
      const value = (name) => (header.includes(name) ? row[header.indexOf(name)] : "");
      const sha256 = value("sha256");
      checked(line, sha256, value("decision"), value("label"));
      const picture = pictureOf.get(sha256) || {};
      const entry = {
        decision: value("decision"),
        label: value("label"),
        path: value("path") || picture.path || "",
        given: value("given_label") || picture.label || "",
        time,
      };
      const before = found.get(sha256);
      if (before && !isSame(before.entry, entry))
        throw new Error(`lines ${before.line} and ${line} decide differently on the same image. Delete one of them.`);
      if (!before) found.set(sha256, { line, entry });
    }
    return [...found].map(([sha256, { entry }]) => [sha256, entry]);
  }

  function checked(line, sha256, decision, label) {
    if (!isHash(sha256))
      throw new Error(`line ${line}: sha256 is ${JSON.stringify(sha256)}. It must be 64 digits of 0 to 9 and a to f.`);
    if (!CHOICES.includes(decision))
      throw new Error(`line ${line}: decision is ${JSON.stringify(decision)}. It must be label, drop or keep.`);
    if ((decision === "label") !== Boolean(label))
      throw new Error(
        decision === "label"
          ? `line ${line}: the label is missing.`
          : `line ${line}: a label needs the decision label, not ${decision}.`,
      );
    // An image that is not on the page may be of another version of the dataset, with other classes.
    if (label && pictureOf.has(sha256) && !data.classes.includes(label))
      throw new Error(`line ${line}: ${JSON.stringify(label)} is not a class of this dataset.`);
  }

  const isSame = (one, other) => Boolean(one && other) && one.decision === other.decision && one.label === other.label;

  async function load(file) {
    let entries;
    try {
      entries = uploaded(await file.text(), file.lastModified);
    } catch (error) {
      announce(`${file.name}, ${error.message} Nothing was loaded.`, true);
      return;
    }
    const different = entries.filter(([sha256, entry]) => !isSame(decisionOf(sha256), entry));
    const newer = different.filter(([sha256, entry]) => !decisionOf(sha256) || decisionOf(sha256).time <= entry.time);
    const foreign = entries.filter(([sha256]) => !pictureOf.has(sha256)).length;
    if (newer.length) change(newer);
    announce(
      `${file.name}: ${counted(entries.length, "decision")}, ${newer.length} new or changed.` +
        (different.length > newer.length
          ? ` ${counted(different.length - newer.length, "decision")} on this page ${different.length - newer.length === 1 ? "is" : "are"} newer than the file and stayed.`
          : "") +
        (foreign
          ? ` ${counted(foreign, "image")} of the file ${foreign === 1 ? "is" : "are"} not on this page; the decisions are kept for the next download.`
          : ""),
      false,
    );
    save();
    draw();
  }

  function announce(text, isProblem) {
    at("loaded").textContent = visible(text);
    at("loaded").classList.toggle("problem", isProblem);
    at("loaded").hidden = false;
  }

  function download() {
    const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv;charset=utf-8" }));
    const link = element("a", { href: url, download: "decisions.csv" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60000); // Some browsers read it only after the user has chosen a place.
    changed = false;
    save();
    draw();
  }

  // ---- Texts ----

  const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const kinds = new Map(data.kinds.map(([kind, title, question]) => [kind, { title, question }]));
  const titleOf = (kind) => kinds.get(kind).title;

  // Control characters and marks that reverse the direction of a text are written out, so that no path looks like another.
  function visible(text) {
    return text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (c) =>
      c === "\n"
        ? "\\n"
        : c === "\r"
          ? "\\r"
          : c === "\t"
            ? "\\t"
            : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
  }

  // Children are text, unless they are nodes.
  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }

  // A long path may break behind a separator, and not within a word.
  function breakable(text) {
    return visible(text)
      .split(/(?<=[/_.-])(?=[^/_.-])/)
      .flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));
  }

  const named = (label) => (label ? element("bdi", {}, ...breakable(label)) : element("small", {}, "no label"));

  function said(entry) {
    if (!entry) return "Undecided";
    return entry.decision === "label"
      ? `Label: ${visible(entry.label)}`
      : entry.decision === "drop"
        ? "Dropped"
        : "Kept";
  }

  function say(text) {
    at("live").textContent = text;
  }

  // ---- Drawing ----

  // Base64 is decoded by the browser only for pictures that are shown. Null: not arrived yet, or there is no picture.
  function source(picture) {
    const text = (at(`p${picture.image}`) || {}).textContent;
    return text ? `data:image/jpeg;base64,${text}` : null;
  }

  function photograph(picture) {
    const url = source(picture);
    if (!url)
      return element("span", {}, document.readyState === "loading" ? "Loading" : "This picture cannot be shown.");
    const image = element("img", { alt: `${visible(picture.label)}: ${visible(picture.path)}`, decoding: "sync" });
    image.addEventListener("load", () =>
      image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 96),
    );
    image.src = url;
    return image;
  }

  function state(picture) {
    const entry = decisionOf(picture.sha256);
    if (!entry) return null;
    const note = local.has(picture.sha256) ? "" : element("small", {}, " earlier");
    return element("span", { class: `state ${entry.decision}` }, said(entry), note);
  }

  function figure(picture, item, isMain) {
    const entry = decisionOf(picture.sha256);
    const proposal = isMain ? proposalOf(item) : null;
    const differs = !isMain && picture.label !== item.picture.label;
    const caption = element(
      "figcaption",
      {},
      element(
        "span",
        {},
        isMain ? "Given label: " : "Label: ",
        element("span", { class: differs ? "chip differs" : "chip" }, named(picture.label)),
      ),
      proposal ? element("span", {}, "Proposed: ", element("span", { class: "chip" }, named(proposal))) : null,
      state(picture),
      element("span", { class: "path" }, ...breakable(picture.path), ` · ${visible(picture.split)}`),
    );
    if (isPair(item)) caption.append(dropButton(picture, item, isMain));
    return element(
      "figure",
      { class: `${isMain ? "main" : "twin"} ${entry ? entry.decision : ""}` },
      element("div", { class: "frame" }, photograph(picture)),
      caption,
    );
  }

  function dropButton(picture, item, isMain) {
    if (!isMain && picture.sha256 === item.picture.sha256)
      return element("small", {}, "The same bytes: a decision holds for both files.");
    const key = isMain ? "x" : picture === item.twins[0] ? "t" : null;
    const button = element(
      "button",
      { type: "button", class: "drop-one", "aria-keyshortcuts": key, "aria-pressed": String(isDropped(picture)) },
      key ? element("kbd", {}, key) : null,
      key ? " " : null,
      "Drop this one",
    );
    onPress(button, () => decide("drop", "", picture));
    return button;
  }

  function drawStage(item) {
    const others = itemsOf.get(item.picture.sha256).filter((other) => other !== item);
    const { title, question } = kinds.get(item.kind);
    at("title").replaceChildren(
      title,
      " ",
      element("small", {}, `rank ${item.rank}`, item.score === null ? "" : ` · score ${item.score.toFixed(3)}`),
    );
    at("question").textContent = question;
    const twins = item.twins.map((twin) => figure(twin, item, false));
    const isTwo = isPair(item) && twins.length === 1;
    const beside =
      twins.length === 0
        ? []
        : isTwo
          ? twins
          : [
              element(
                "div",
                { class: twins.length === 1 ? "twins one" : "twins" },
                element("h3", {}, isPair(item) ? "Near-duplicates" : "Nearest images"),
                ...twins,
              ),
            ];
    at("pictures").className = isTwo ? "pair" : twins.length ? "" : "alone";
    at("pictures").replaceChildren(figure(item.picture, item, true), ...beside);
    at("issues").replaceChildren(
      element("p", {}, visible(item.reason)),
      ...others.map((other) =>
        element(
          "p",
          {},
          element("strong", {}, `Also ${titleOf(other.kind).toLowerCase()}, rank ${other.rank}: `),
          visible(other.reason),
        ),
      ),
    );
  }

  // Numbers and names of the labels to choose from by a key.
  function choices(item) {
    if (data.classes.length <= MOST_BUTTONS) return data.classes;
    const likely = [proposalOf(item), ...item.twins.map((twin) => twin.label)];
    return [
      ...new Set(likely.filter((label) => label && label !== item.picture.label && data.classes.includes(label))),
    ].slice(0, 9);
  }

  function drawBar(item) {
    const entry = decisionOf(item.picture.sha256);
    const proposal = proposalOf(item);
    at("labels").replaceChildren(
      ...choices(item).map((label, i) => {
        const note = label === proposal ? "proposed" : label === item.picture.label ? "given" : "";
        const isChosen = Boolean(entry) && entry.decision === "label" && entry.label === label;
        const button = element(
          "button",
          {
            type: "button",
            class: label === proposal ? "proposed" : "",
            "aria-pressed": String(isChosen),
            "aria-keyshortcuts": label === proposal ? `${DIGITS[i]} p` : DIGITS[i],
          },
          element("kbd", {}, DIGITS[i]),
          " ",
          named(label),
          note ? element("small", {}, ` ${note}`) : null,
        );
        onPress(button, () => decide("label", label));
        return button;
      }),
    );
    at("labels").hidden = !at("labels").children.length;
    at("labels").className = at("labels").children.length > 4 ? "many" : "";
    at("keep").lastElementChild.textContent = !isPair(item)
      ? "Keep"
      : item.twins.length === 1
        ? "Keep both"
        : "Keep all";
    for (const choice of ["keep", "drop"])
      at(choice).setAttribute("aria-pressed", String(Boolean(entry) && entry.decision === choice));
  }

  function drawStrip(list) {
    const index = Math.max(
      list.findIndex((item) => item.number >= current),
      0,
    );
    const near = list.slice(Math.max(index - STRIP, 0), index + STRIP + 1);
    at("strip").replaceChildren(
      ...near.map((item) => {
        const entry = decisionOf(item.picture.sha256);
        const text = entry ? said(entry) : isDecided(item) ? "Twin dropped" : "Undecided";
        const button = element(
          "button",
          {
            type: "button",
            class: entry ? entry.decision : "",
            "aria-current": item.number === current ? "true" : null,
            "aria-label": `${titleOf(item.kind)} ${item.rank}: ${text}`,
          },
          photograph(item.picture),
          text === "Undecided"
            ? null
            : element(
                "span",
                { class: `state ${entry ? entry.decision : "drop"}` },
                entry && entry.decision === "label" ? visible(entry.label) : text,
              ),
        );
        onPress(button, () => go(item.number));
        return button;
      }),
    );
    const chosen = at("strip").querySelector("[aria-current]");
    if (chosen)
      at("strip").scrollLeft =
        chosen.offsetLeft - at("strip").offsetLeft - (at("strip").clientWidth - chosen.clientWidth) / 2;
  }

  const kindButtons = new Map(["", ...kinds.keys()].map((kind) => [kind, element("button", { type: "button" })]));

  function drawKinds() {
    for (const [kind, button] of kindButtons) {
      const some = items.filter((item) => !kind || item.kind === kind);
      const done = some.filter(isDecided).length;
      button.replaceChildren(
        kind ? titleOf(kind) : "All",
        element("small", {}, `${done} of ${some.length} decided`),
        bar(done / Math.max(some.length, 1)),
      );
      button.setAttribute("aria-pressed", String(filter.kind === kind));
    }
  }

  function bar(part) {
    const filled = element("i", {});
    filled.style.width = `${100 * part}%`;
    return element("span", { class: "bar", "aria-hidden": "true" }, filled);
  }

  function drawProgress() {
    const done = [...itemsOf.values()].filter((some) => some.some(isDecided)).length;
    at("progress").replaceChildren(
      `${done.toLocaleString("en")} of ${itemsOf.size.toLocaleString("en")} decided`,
      changed ? element("small", {}, ", not downloaded yet") : "",
    );
    at("part").style.width = `${(100 * done) / Math.max(itemsOf.size, 1)}%`;
    at("undo").disabled = !history.length;
    if (at("copy").open) at("text").value = csv();
  }

  function drawBanner(list) {
    const left = items.filter((item) => !isDecided(item));
    const isDone = !list.some((item) => !isDecided(item));
    at("banner").hidden = !isDone;
    if (!isDone) return;
    const isAll = left.length === 0;
    const nothing = filter.kind || filter.label || filter.undecided ? "Nothing is left in this list." : "";
    at("finished").textContent = !items.length
      ? "There are no doubtful images."
      : isAll
        ? "Everything is decided. Download decisions.csv and apply it."
        : nothing;
    at("onward").hidden = !items.length;
    at("onward").textContent = isAll
      ? "How to apply"
      : `Go on: ${titleOf(left[0].kind)}, ${left.filter((item) => item.kind === left[0].kind).length} undecided`;
  }

  function onward() {
    const left = items.filter((item) => !isDecided(item));
    if (!left.length) {
      at("save").scrollIntoView();
      return;
    }
    Object.assign(filter, { kind: filter.kind && left[0].kind, label: "" });
    go(left[0].number);
  }

  function draw() {
    const all = shown();
    if (all.length && !all.includes(items[current]))
      current = (all.find((item) => item.number > current) || all[0]).number;
    const item = items[current];
    const isShown = all.includes(item);
    for (const id of ["stage", "bar", "strip"]) at(id).hidden = !isShown;
    if (isShown) {
      drawStage(item);
      drawBar(item);
      drawStrip(all);
    }
    drawKinds();
    drawProgress();
    drawBanner(all);
    at("position").value = isShown ? String(all.indexOf(item) + 1) : "";
    at("position").max = String(all.length);
    at("count").textContent = `of ${all.length.toLocaleString("en")}`;
    at("label").value = filter.label;
    at("undecided").checked = filter.undecided;
    at("search").hidden = data.classes.length <= MOST_BUTTONS;
  }

  // ---- The field for more classes than keys ----

  let matches = [];
  let chosen = 0;

  function find() {
    const typed = at("find").value.trim().toLowerCase();
    const starts = data.classes.filter((label) => label.toLowerCase().startsWith(typed));
    const contains = data.classes.filter((label) => label.toLowerCase().includes(typed) && !starts.includes(label));
    matches = [...starts, ...contains].slice(0, 50);
    chosen = 0;
    drawOptions(true);
  }

  function drawOptions(isOpen) {
    at("options").hidden = !isOpen;
    at("find").setAttribute("aria-expanded", String(isOpen));
    at("options").replaceChildren(
      ...matches.map((label, i) => {
        const option = element(
          "li",
          { role: "option", id: `option${i}`, "aria-selected": String(i === chosen) },
          named(label),
        );
        option.addEventListener("pointerdown", (event) => event.preventDefault()); // The field keeps the focus until the click.
        option.addEventListener("click", () => take(label));
        return option;
      }),
      ...(matches.length
        ? []
        : [element("li", { role: "option", "aria-disabled": "true" }, "No class has this name.")]),
    );
    if (matches.length && isOpen) {
      at("find").setAttribute("aria-activedescendant", `option${chosen}`);
      at(`option${chosen}`).scrollIntoView({ block: "nearest" });
    } else at("find").removeAttribute("aria-activedescendant");
  }

  function take(label) {
    leave();
    if (label !== undefined) decide("label", label);
  }

  function leave() {
    at("find").value = "";
    drawOptions(false);
    at("find").blur();
  }

  function findKey(event) {
    if (event.isComposing) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && matches.length) {
      chosen = (chosen + step + matches.length) % matches.length;
      drawOptions(true);
    } else if (event.key === "Enter") {
      if (matches.length && at("find").value.trim()) take(matches[chosen]);
    } else if (event.key === "Escape") leave();
    else return;
    event.preventDefault();
  }

  // ---- Keys, mouse and thumb ----

  // After a click the focus goes back to the page. Otherwise the space bar would press the same button again.
  function onPress(button, action) {
    button.addEventListener("click", (event) => {
      if (event.detail > 0) button.blur();
      action();
    });
  }

  const ACTIONS = {
    " ": () => decide("keep"),
    x: () => decide("drop"),
    t: () => {
      if (items[current] && canDropTwin(items[current])) decide("drop", "", items[current].twins[0]);
    },
    p: () => {
      const proposal = items[current] && proposalOf(items[current]);
      if (proposal) decide("label", proposal);
    },
    u: undo,
    n: nextUndecided,
    l: () => {
      if (!at("search").hidden) at("find").focus();
    },
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
  };
  const MAY_REPEAT = ["ArrowLeft", "ArrowRight"]; // A key that is held down must not decide on a hundred images.

  // On keyboards with other letters or shifted digits, the position of the key counts.
  function keyOf(event) {
    if (/^[a-z0-9]$/i.test(event.key)) return event.key.toLowerCase();
    const code = /^(?:Key([A-Z])|Digit([0-9]))$/.exec(event.code || "");
    return code ? (code[1] || code[2]).toLowerCase() : event.key;
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const focused = document.activeElement;
    if (focused && focused.matches("input, select, textarea")) return;
    const key = keyOf(event);
    if (key === " " && focused && focused.matches("button, summary, a")) return; // The space bar presses what has the focus.
    const digit = DIGITS.indexOf(key);
    const label = digit >= 0 && items[current] ? choices(items[current])[digit] : undefined;
    const action = label !== undefined ? () => decide("label", label) : ACTIONS[key];
    if (!action) return;
    event.preventDefault();
    if (!event.repeat || MAY_REPEAT.includes(key)) action();
  }

  function onFilter(name, value) {
    filter[name] = value;
    draw();
  }

  function listen() {
    document.addEventListener("keydown", onKey);
    onPress(at("keep"), ACTIONS[" "]);
    onPress(at("drop"), ACTIONS.x);
    onPress(at("undo"), undo);
    onPress(at("back"), ACTIONS.ArrowLeft);
    onPress(at("next"), ACTIONS.ArrowRight);
    onPress(at("download"), download);
    onPress(at("onward"), onward);
    for (const [kind, button] of kindButtons) onPress(button, () => onFilter("kind", kind));
    at("label").addEventListener("change", () => {
      onFilter("label", at("label").value);
      at("label").blur();
    });
    at("undecided").addEventListener("change", () => {
      onFilter("undecided", at("undecided").checked);
      at("undecided").blur();
    });
    at("position").addEventListener("change", () => jump(at("position").valueAsNumber));
    at("position").addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === "Escape") at("position").blur();
    });
    at("upload").addEventListener("change", async () => {
      const [file] = at("upload").files;
      if (file) await load(file);
      at("upload").value = "";
    });
    at("copy").addEventListener("toggle", drawProgress);
    at("text").addEventListener("focus", () => at("text").select());
    at("find").addEventListener("input", find);
    at("find").addEventListener("focus", find);
    at("find").addEventListener("keydown", findKey);
    at("find").addEventListener("blur", () => drawOptions(false));
  }

  function jump(position) {
    const list = shown();
    if (Number.isInteger(position) && list.length) go(list[Math.min(Math.max(position, 1), list.length) - 1].number);
    else draw();
  }

  // The same page in a second tab: both show the same decisions.
  function watch() {
    window.addEventListener("storage", (event) => {
      if (event.key !== KEY) return;
      restore(event.newValue);
      draw();
    });
    window.addEventListener("beforeunload", (event) => {
      if (!storage && changed) event.preventDefault();
    });
    document.addEventListener("DOMContentLoaded", draw); // All pictures have arrived.
    // Within a notebook, the keys go to the notebook until the user clicks on the page.
    at("focus").hidden = window === window.top || document.hasFocus();
    window.addEventListener("focus", () => {
      at("focus").hidden = true;
    });
  }

  at("kinds").append(...kindButtons.values());
  const labels = [...new Set(items.map((item) => item.picture.label))].sort(
    (a, b) => data.classes.indexOf(a) - data.classes.indexOf(b),
  );
  at("label").append(
    element("option", { value: "" }, "all labels"),
    ...labels.filter(Boolean).map((label) => element("option", { value: label }, visible(label))),
  );
  listen();
  watch();
  begin();
  save();
  draw();
})();
