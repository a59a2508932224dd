"use strict";
// Class names, paths and reasons are untrusted. They only become text nodes and attribute values, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const MOST_BUTTONS = 10; // With more classes, a field finds the class by its name.
  const DIGITS = "1234567890";
  const STRIP = 6; // Images shown before and after the current one.
  const SHOWN = 5; // Rows and classes in a message.
  const LIKELY = 0.5; // Issues with this score are counted in reports.
  const COLUMNS = ["sha256", "decision", "label", "path", "given_label", "twin_sha256"];
  const LABELS = ["label", "predicted_label", "proposed_label"]; // The first one with a value is the new label.
  const CHOICES = ["label", "drop", "keep", "both", "none"]; // none: an earlier decision is taken back.
  const WORDS = "label, drop, keep, both or none";

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

  // ---- Decisions ----

  // A decision is about the bytes of an image, with one exception. If a person keeps both of a pair, the decision is about
  // the pair, because it says nothing about the label of either image. Its key has both hashes, in any order of the images.
  const pairKey = (one, other) => [one, other].sort().join(" ");
  const keyOfRow = (sha256, twin) => (twin ? pairKey(sha256, twin) : sha256);
  const NOTHING = { path: "", label: "" };
  const aboutOf = (key) => pictureOf.get(key.split(" ")[0]) || NOTHING;
  const entryOf = (decision, label, { path, label: given } = NOTHING, isEarlier = false, coversPairs = false) => ({
    decision,
    label: label || "",
    path,
    given,
    isEarlier,
    coversPairs, // Whether decisions about both images of a pair answer the question about the pair, too.
  });
  const earlier = new Map(
    data.decided.map(([sha256, decision, label, path, twin]) => {
      const key = keyOfRow(sha256, twin);
      return [key, entryOf(decision, label, { path, label: aboutOf(key).label }, true, true)];
    }),
  );
  let local = new Map(); // SHA-256 or `pairKey` -> entry. `earlier` has the decisions of earlier conversions.
  let history = []; // [{at: `idOf` the item, before: [[key, entry or null], ...]}], the last decision at the end.
  let current = 0;
  let hasMoved = true; // Whether the user moved to the current item without a decision.
  let changed = false; // Whether decisions have changed since the last download.
  const filter = { kind: "", label: "", undecided: false };

  const isPair = (item) => item.kind === "near_duplicate" && item.twins.length > 0;
  const sidesOf = (item) => [item.picture, ...item.twins];
  const hashesOf = (item) => (isPair(item) ? sidesOf(item).map((side) => side.sha256) : [item.picture.sha256]);
  const pairsOf = (item) => (isPair(item) ? item.twins.map((twin) => pairKey(item.picture.sha256, twin.sha256)) : []);
  // Another audit of the dataset gives the item another number, and the same name.
  const idOf = (item) => [item.kind, ...hashesOf(item).sort()].join(" ");
  const byId = new Map(items.map((item) => [idOf(item), item]));
  const currentId = () => (items[current] ? idOf(items[current]) : "");

  function decisionOf(key) {
    const entry = local.get(key) || earlier.get(key);
    return entry && entry.decision !== "none" ? entry : undefined;
  }

  const isDropped = (sha256) => (decisionOf(sha256) || {}).decision === "drop";
  const coversPairs = (sha256) => (decisionOf(sha256) || {}).coversPairs === true;

  // Returns the keys of the decisions that answer the item's question; none: the item is undecided. A label that was set
  // elsewhere does not answer whether two pictures are the same. Decisions on both pictures do if they come from a file of
  // an earlier release, without decisions about pairs, or from the dataset: the audit does not list such pairs again.
  function answersOf(item) {
    const hashes = hashesOf(item);
    if (!isPair(item)) return hashes.filter(decisionOf);
    const [main, ...twins] = hashes;
    if (isDropped(main) || twins.every(isDropped)) return hashes.filter(isDropped);
    const open = pairsOf(item).filter((_, i) => !isDropped(twins[i]));
    if (open.every(decisionOf)) return [...hashes.filter(isDropped), ...open];
    return hashes.every(coversPairs) ? hashes : [];
  }

  const isDecided = (item) => answersOf(item).length > 0;
  const isKept = (item) => isPair(item) && pairsOf(item).some(decisionOf);
  const pairOf = (picture, item) => pairsOf(item).find((key) => decisionOf(key) && key.split(" ").includes(picture.sha256));
  const stateOf = (picture, item) => decisionOf(picture.sha256) || decisionOf(pairOf(picture, item));
  const canDropTwin = (item) => isPair(item) && item.twins[0].sha256 !== item.picture.sha256;
  const proposerOf = (item) => [item, ...itemsOf.get(item.picture.sha256)].find((other) => other.proposed);
  const proposalOf = (item) => (proposerOf(item) || {}).proposed || null;
  const isLikely = (item) => item.score === null || item.score >= LIKELY;

  // The audit lists labels that are probably right, too. Their other class is only the second choice: if it looked like a
  // proposal, a person in a hurry would set it.
  const isProposed = (item) => {
    const proposer = proposerOf(item);
    return Boolean(proposer) && (proposer.kind !== "label" || isLikely(proposer));
  };

  function shown() {
    return items.filter(
      (item) =>
        (!filter.kind || item.kind === filter.kind) &&
        (!filter.label || item.picture.label === filter.label) &&
        (!filter.undecided || !isDecided(item)),
    );
  }

  // An entry is null if the decision is removed.
  function change(entries) {
    history.push({ at: currentId(), before: entries.map(([key]) => [key, local.get(key) || null]) });
    put(entries);
    hasMoved = false;
  }

  function put(entries) {
    for (const [key, entry] of entries)
      if (entry) local.set(key, entry);
      else local.delete(key);
    changed = true;
  }

  function decide(decision, label, picture) {
    const item = items[current];
    if (!item || at("stage").hidden) return;
    const target = picture || item.picture;
    const wasDecided = isDecided(item);
    change(isPair(item) ? onPair(item, decision, label, target) : [[target.sha256, entryOf(decision, label, target)]]);
    say(`${said(stateOf(target, item))}.`);
    if (target === item.picture || isDecided(item)) advance(wasDecided); // If not, other pictures of the group are undecided.
    save();
    draw();
    reveal();
  }

  function onPair(item, decision, label, target) {
    const keepsAll = pairsOf(item).map((key) => [key, entryOf("both", "", aboutOf(key))]);
    if (decision === "drop")
      return [[target.sha256, entryOf("drop", "", target)], ...pairsOf(item).map((key) => [key, withdrawn(key, "both")])];
    if (decision === "label") return [[target.sha256, entryOf("label", label, target)], ...keepsAll];
    const dropped = hashesOf(item).filter(isDropped);
    return [...dropped.map((sha256) => [sha256, beforeDrop(sha256)]), ...keepsAll];
  }

  // Returns an entry that takes a decision of an earlier conversion back, if it has this word; null: there is none.
  const withdrawn = (key, word) =>
    (earlier.get(key) || {}).decision === word ? entryOf("none", "", aboutOf(key)) : null;

  // Returns the entry that a dropped image had before. A label that was set or loaded comes back.
  function beforeDrop(sha256) {
    const entries = history.flatMap((step) => step.before).filter(([key]) => key === sha256);
    const [, before] = entries.filter(([, entry]) => !entry || entry.decision !== "drop").pop() || [];
    return before || withdrawn(sha256, "drop");
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

  // Undoes the decision on the current item, if the user moved there and it is decided. Otherwise undoes the last decision.
  function undo() {
    const keys = ownAnswers();
    if (keys.length) takeBack(keys);
    else if (history.length) takeBackLast();
    else return;
    save();
    draw();
  }

  const ownAnswers = () => (hasMoved && items[current] && !at("stage").hidden ? answersOf(items[current]) : []);

  function takeBack(keys) {
    put(keys.map((key) => [key, local.has(key) ? null : entryOf("none", "", aboutOf(key))]));
    history = history
      .map((step) => ({ ...step, before: step.before.filter(([key]) => !keys.includes(key)) }))
      .filter((step) => step.before.length);
    say("The decision on this image is taken back.");
  }

  function takeBackLast() {
    const last = history.pop();
    put(last.before);
    if (byId.has(last.at)) current = byId.get(last.at).number;
    hasMoved = false;
    if (!shown().includes(items[current])) Object.assign(filter, { kind: "", label: "", undecided: false });
    say("The last decision is taken back.");
  }

  function move(step) {
    const list = shown();
    const next =
      step > 0 ? list.find((item) => item.number > current) : list.filter((item) => item.number < current).pop();
    if (next) go(next.number);
  }

  function go(number) {
    current = number;
    hasMoved = true;
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

  const storage = opened();
  let failure = ""; // Why the last decisions are not stored.
  let isAsked = false; // Whether the page asks if a download arrived. A frame may block a download silently.

  const REFUSED =
    "This browser does not store decisions for this page, for example because it is shown inside a notebook. Decisions are" +
    " lost when the page closes. Download `decisions.csv` before you close the page.";
  const FULL =
    "The storage of this browser is full, so new decisions are lost when the page closes. Download `decisions.csv` now. If" +
    " you open the page again, load this file.";

  function save() {
    try {
      failure = storage ? "" : REFUSED;
      const state = { decisions: [...local], history, current: currentId(), changed };
      if (storage) storage.setItem(KEY, JSON.stringify(state));
    } catch (error) {
      failure = error.name === "QuotaExceededError" ? FULL : REFUSED;
    }
  }

  const isHash = (text) => /^[0-9a-f]{64}$/.test(text);
  const isKey = (text) => /^[0-9a-f]{64}( [0-9a-f]{64})?$/.test(text);
  const isEntry = (entry) =>
    entry &&
    CHOICES.includes(entry.decision) &&
    ["label", "path", "given"].every((key) => typeof entry[key] === "string");

  function restore(text) {
    try {
      const state = JSON.parse(text) || { decisions: [], history: [] };
      const decisions = state.decisions.filter(([key, entry]) => isKey(key) && isEntry(entry));
      const steps = state.history.filter(
        (step) =>
          byId.has(step.at) && step.before.every(([key, entry]) => isKey(key) && (entry === null || isEntry(entry))),
      );
      local = new Map(decisions);
      history = steps;
      changed = Boolean(state.changed);
      return state.current;
    } catch {
      // Another program has written it.
      return undefined;
    }
  }

  function begin() {
    const stored = byId.get(storage ? restore(storage.getItem(KEY)) : undefined);
    current = (stored || items.find((item) => !isDecided(item)) || { number: 0 }).number;
  }

  // ---- decisions.csv, RFC 4180 ----

  // A spreadsheet may take a path such as "=A1.jpg" for a formula. A sign in front of it would make it another path, so the
  // text stays as it is.
  const quoted = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  // Returns key -> entry of all rows.
  const exported = () => new Map([...earlier, ...local]);

  function csv() {
    const order = new Map([...pictureOf.keys()].map((sha256, i) => [sha256, i]));
    const placeOf = (sha256) => (order.has(sha256) ? order.get(sha256) : Infinity);
    const place = ([key]) => Math.min(...key.split(" ").map(placeOf));
    const rows = [...exported()]
      .sort((a, b) => (place(a) < place(b) ? -1 : place(a) > place(b) ? 1 : a[0] < b[0] ? -1 : 1))
      .map(([key, { decision, label, path, given }]) => {
        const [sha256, twin = ""] = key.split(" ");
        return [sha256, decision, label, path, given, twin];
      });
    return [COLUMNS, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
  }

  // The page reads the tables that `convert --decisions` reads, except Parquet: see tfrecord_tools/base/tables.py.
  const clean = (text) => text.normalize("NFC").trim();
  const quote = (text) => JSON.stringify(text);
  const DELIMITERS = [",", ";", "\t", "|"];
  const PROBED_LINES = 200;

  function decoded(bytes) {
    const starts = (...codes) => codes.every((code, i) => bytes[i] === code);
    if (starts(0x50, 0x4b, 3, 4)) throw new Error("is a workbook or a zip archive. Save the sheet with the table as a CSV file in UTF-8.");
    if (starts(0x50, 0x41, 0x52, 0x31)) throw new Error("is a Parquet file. Load a CSV.");
    const encoding = starts(0xff, 0xfe) ? "utf-16le" : starts(0xfe, 0xff) ? "utf-16be" : "utf-8";
    try {
      return new TextDecoder(encoding, { fatal: true }).decode(bytes); // It removes a byte order mark.
    } catch {
      throw new Error("is not a text in UTF-8. Save the table as CSV in UTF-8.");
    }
  }

  // Returns the rows without empty lines. Quotes may hold delimiters and line breaks, and the end of the text closes them.
  function parsed(text, delimiter) {
    const end = delimiter.replace(/[|\\\]^-]/, "\\$&");
    const field = new RegExp(`(?:"([^"]*(?:""[^"]*)*)(?:"|$))?([^${end}\\r\\n]*)([${end}]|\\r\\n|\\n|\\r|$)`, "y");
    const rows = [];
    let row = [];
    while (field.lastIndex < text.length || row.length) {
      const [whole, inside, plain, after] = field.exec(text);
      row.push((inside || "").replaceAll('""', '"') + plain);
      if (after === delimiter) continue;
      if (row.length > 1 || whole !== after) rows.push(row);
      row = [];
    }
    return rows;
  }

  // A delimiter that gives the header a known name is preferred, then one that gives all lines the same number of columns.
  function delimiterOf(text) {
    const lines = (text.match(/[^\r\n]*(?:\r\n|\n|\r|$)/g) || []).slice(0, PROBED_LINES).join("");
    const scores = DELIMITERS.map((delimiter) => {
      const rows = parsed(lines, delimiter);
      const header = (rows[0] || []).map((name) => clean(name).toLowerCase());
      const isKnown = header.length > 1 && COLUMNS.some((name) => header.includes(name));
      const isEven = header.length > 1 && rows.slice(0, -1).every((row) => row.length === header.length);
      return (isKnown ? 2e6 : 0) + (isEven ? 1e6 : 0) + header.length;
    });
    return DELIMITERS[scores.indexOf(Math.max(...scores))];
  }

  function rowsOf(text) {
    const named = /^"?sep=([\t !#-~])"?\r?\n/.exec(text); // Excel names the delimiter in a line before the header.
    const body = named ? text.slice(named[0].length) : text;
    const [header = [], ...rows] = parsed(body, named ? named[1] : delimiterOf(body));
    const names = header.map(clean);
    const missing = COLUMNS.slice(0, 2).filter((name) => !names.includes(name));
    if (missing.length)
      throw new Error(
        `is not a decisions file: there is no column ${missing.map(quote).join(" and no column ")}. The columns must be` +
          ` ${COLUMNS.join(", ")}.`,
      );
    const repeated = COLUMNS.find((name) => names.indexOf(name) !== names.lastIndexOf(name));
    if (repeated) throw new Error(`several columns are named ${quote(repeated)}. Keep one of them.`);
    return rows.map((row, i) => {
      if (row.length !== names.length)
        throw new Error(`row ${i + 1}: has ${counted(row.length, "value")}. The table has ${names.length} columns.`);
      return Object.fromEntries(names.map((name, column) => [name, row[column].trim()]));
    });
  }

  const classOf = new Map(data.classes.map((name) => [clean(name), name]));

  // Returns [[SHA-256, entry], ...] and messages about the rows with a label that is not a class.
  function uploaded(text) {
    const found = new Map();
    const refused = [];
    const rows = rowsOf(text);
    const isOld = rows.length > 0 && !("twin_sha256" in rows[0]);
    rows.forEach((values, i) => {
      if (!values.decision) return;
      const { sha256, decision, label, twin } = checked(values, i + 1);
      if (decision === "label" && !classOf.has(label)) {
        refused.push(`Row ${i + 1} is not loaded: ${quote(label)} is not a class.`);
        return;
      }
      const key = keyOfRow(sha256, twin);
      const picture = aboutOf(key);
      const own = key.startsWith(sha256) ? values : {}; // If not, the path is that of the second hash of the key.
      const about = { path: own.path || picture.path, label: own.given_label || picture.label };
      const entry = entryOf(decision, classOf.get(label), about, true, isOld);
      const before = found.get(key);
      if (before && !isSame(before.entry, entry))
        throw new Error(
          `rows ${before.row} and ${i + 1} contradict each other about the same image. Delete one of the rows.`,
        );
      if (!before) found.set(key, { row: i + 1, entry });
    });
    if (!found.size && !refused.length)
      throw new Error(`no row has a decision. The column decision must have ${WORDS}.`);
    return { entries: [...found].map(([key, { entry }]) => [key, entry]), refused };
  }

  function checked(values, row) {
    const sha256 = values.sha256.toLowerCase();
    const decision = values.decision.toLowerCase();
    if (!CHOICES.includes(decision))
      throw new Error(
        `row ${row}: ${quote(values.decision)} is not a decision. The column decision must be ${WORDS}.`,
      );
    if (!isHash(sha256))
      throw new Error(
        `row ${row}: ${quote(values.sha256)} is not a SHA-256 hash. The column sha256 must have 64 hexadecimal digits.`,
      );
    const label = decision === "label" ? clean(LABELS.map((name) => values[name]).find(Boolean) || "") : "";
    if (decision === "label" && !label)
      throw new Error(
        `row ${row}: the column "decision" has the word "label", but the column "label" is empty. Write the name of a class.`,
      );
    const twin = isAboutPair(values, decision) ? (values.twin_sha256 || "").toLowerCase() : "";
    if (!isHash(twin) && (twin || decision === "both"))
      throw new Error(
        `row ${row}: ${quote(twin)} is not a SHA-256 hash. With the word "${decision}", the column twin_sha256 must have the` +
          " hash of the other image of the pair: 64 hexadecimal digits.",
      );
    return { sha256, decision, label, twin };
  }

  // The list of issues has a twin in rows about one image, too. There, "none" is about the image.
  const isAboutPair = (values, decision) => decision === "both" || (decision === "none" && !("kind" in values));

  const isSame = (one, other) => one.decision === other.decision && one.label === other.label;

  async function load(file) {
    let loaded;
    try {
      loaded = uploaded(decoded(new Uint8Array(await file.arrayBuffer())));
    } catch (error) {
      announce([`${file.name}: ${error.message} Nothing was loaded.`], true);
      return;
    }
    const rows = exported();
    const differing = loaded.entries.filter(([key, entry]) => differs(rows, key, entry)).length;
    if (differing) ask(file.name, loaded, differing);
    else add(file.name, loaded, true);
  }

  const differs = (rows, key, entry) => rows.has(key) && !isSame(rows.get(key), entry);

  function ask(name, loaded, differing) {
    const mine = element("button", { type: "button" }, "Keep the decisions of this page");
    const other = element("button", { type: "button" }, "Use the decisions of the file");
    onPress(mine, () => add(name, loaded, false));
    onPress(other, () => add(name, loaded, true));
    const count = `${counted(differing, "decision")} ${differing === 1 ? "differs" : "differ"}`;
    announce([`${name}: ${count} from the decisions on this page.`], false, mine, other);
  }

  function add(name, { entries, refused }, replaces) {
    const rows = exported();
    const added = entries.filter(([key, entry]) => !rows.has(key) || (replaces && differs(rows, key, entry)));
    const foreign = new Set(entries.flatMap(([key]) => key.split(" ")).filter((sha256) => !pictureOf.has(sha256))).size;
    if (added.length) change(added);
    const rest = refused.length - SHOWN;
    announce(
      [
        `${name}: ${counted(entries.length, "decision")}, ${added.length} new or changed.` +
          (foreign
            ? ` ${counted(foreign, "image")} of the file ${foreign === 1 ? "is" : "are"} not on this page; the decisions are kept for the next download.`
            : ""),
        ...refused.slice(0, SHOWN),
        rest > 0 ? `${counted(rest, "other row")} ${rest === 1 ? "is" : "are"} not loaded.` : "",
        refused.length ? `Classes are ${someOf(data.classes)}. Correct the label and load the file again.` : "",
      ],
      refused.length > 0,
    );
    save();
    draw();
  }

  const someOf = (names) =>
    names.slice(0, 2 * SHOWN).join(", ") + (names.length > 2 * SHOWN ? ` and ${names.length - 2 * SHOWN} more` : "");

  function announce(texts, isProblem, ...buttons) {
    at("loaded").replaceChildren(
      ...texts.filter(Boolean).map((text) => element("p", {}, visible(text))),
      ...(buttons.length ? [element("div", { class: "choice" }, ...buttons)] : []),
    );
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
    save();
    // A page cannot see whether a frame blocked the download. With storage, nothing is lost if it did.
    if (failure) isAsked = true;
    else confirmSaved();
    draw();
  }

  function confirmSaved() {
    changed = false;
    isAsked = false;
    save();
    draw();
  }

  function showText() {
    at("copy").open = true;
    at("text").value = csv();
    at("text").focus();
    at("copy").scrollIntoView();
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

  // Between backticks stands code. The texts are those of this script.
  const coded = (text) => text.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));

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

  const lookOf = (entry) => (entry.decision === "both" ? "keep" : entry.decision); // Name of a style.

  function state(entry) {
    if (!entry) return null;
    const note = entry.isEarlier ? element("small", {}, " earlier") : "";
    return element("span", { class: `state ${lookOf(entry)}` }, said(entry), note);
  }

  function figure(picture, item, isMain) {
    const entry = stateOf(picture, item);
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
      proposal
        ? element(
            "span",
            {},
            isProposed(item) ? "Proposed: " : "Second choice: ",
            element("span", { class: "chip" }, named(proposal)),
          )
        : null,
      state(entry),
      element("span", { class: "path" }, ...breakable(picture.path), ` · ${visible(picture.split)}`),
    );
    if (isPair(item)) caption.append(dropButton(picture, item, isMain));
    return element(
      "figure",
      { class: `${isMain ? "main" : "twin"} ${entry ? lookOf(entry) : ""}` },
      element("div", { class: "frame" }, photograph(picture)),
      caption,
    );
  }

  // Files with the same bytes share one decision, so none of them can be dropped alone.
  function dropButton(picture, item, isMain) {
    const files = sidesOf(item).filter((side) => side.sha256 === picture.sha256);
    if (files[0] !== picture) return element("small", {}, "The same bytes");
    const key = isMain ? "x" : picture === item.twins[0] ? "t" : null;
    const button = element(
      "button",
      { type: "button", class: "drop-one", "aria-keyshortcuts": key, "aria-pressed": String(isDropped(picture.sha256)) },
      key ? element("kbd", {}, key) : null,
      key ? " " : null,
      files.length === 1 ? "Drop this one" : dropAll(files.length),
    );
    onPress(button, () => decide("drop", "", picture));
    return button;
  }

  const dropAll = (count) => (count === 2 ? "Drop both files" : `Drop all ${count} files`);
  const isOneFile = (item) => isPair(item) && new Set(hashesOf(item)).size === 1;

  function questionOf(item) {
    if (!isOneFile(item)) return kinds.get(item.kind).question;
    const differ = new Set(sidesOf(item).map((side) => side.label)).size > 1;
    return (
      `A decision applies to ${item.twins.length === 1 ? "both" : "all"} files. To store only one of the files, ` +
      (differ ? "set the right label here, " : "keep them here, ") +
      "and convert with `--duplicates=drop`."
    );
  }

  function drawStage(item) {
    const others = itemsOf.get(item.picture.sha256).filter((other) => other !== item);
    at("title").replaceChildren(
      titleOf(item.kind),
      " ",
      element("small", {}, `rank ${item.rank}`, item.score === null ? "" : ` · score ${item.score.toFixed(3)}`),
    );
    at("question").replaceChildren(...coded(questionOf(item)));
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
    const entry = stateOf(item.picture, item);
    const proposal = proposalOf(item);
    at("labels").replaceChildren(
      ...choices(item).map((label, i) => {
        const offered = isProposed(item) ? "proposed" : "second choice";
        const note = label === proposal ? offered : label === item.picture.label ? "given" : "";
        const isChosen = Boolean(entry) && entry.decision === "label" && entry.label === label;
        const button = element(
          "button",
          {
            type: "button",
            class: label === proposal && isProposed(item) ? "proposed" : "",
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
    at("drop").lastElementChild.textContent = isOneFile(item) ? (item.twins.length === 1 ? "Drop both" : "Drop all") : "Drop";
    const isKeep = isPair(item) ? isKept(item) : Boolean(entry) && entry.decision === "keep";
    at("keep").setAttribute("aria-pressed", String(isKeep));
    at("drop").setAttribute("aria-pressed", String(isDropped(item.picture.sha256)));
  }

  function drawStrip(list) {
    const index = Math.max(
      list.findIndex((item) => item.number >= current),
      0,
    );
    const near = list.slice(Math.max(index - STRIP, 0), index + STRIP + 1);
    at("strip").replaceChildren(
      ...near.map((item) => {
        const entry = isDecided(item) ? stateOf(item.picture, item) : undefined;
        const text = entry ? said(entry) : isDecided(item) ? "Twin dropped" : "Undecided";
        const button = element(
          "button",
          {
            type: "button",
            class: entry ? lookOf(entry) : "",
            "aria-current": item.number === current ? "true" : null,
            "aria-label": `${titleOf(item.kind)} ${item.rank}: ${text}`,
          },
          photograph(item.picture),
          text === "Undecided"
            ? null
            : element(
                "span",
                { class: `state ${entry ? lookOf(entry) : "drop"}` },
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
    const done = items.filter(isDecided).length;
    at("progress").replaceChildren(
      `${done.toLocaleString("en")} of ${items.length.toLocaleString("en")} decided`,
      changed ? element("small", {}, ", not downloaded yet") : "",
    );
    at("part").style.width = `${(100 * done) / Math.max(items.length, 1)}%`;
    at("undo").disabled = !history.length && !ownAnswers().length;
    if (at("copy").open) at("text").value = csv();
  }

  // Tells when to stop. The score of a label error is the probability that the label is wrong, so the sum of the scores is
  // the number of wrong labels to expect. The scores of other kinds do not tell how many issues are real.
  function drawLeft(item) {
    at("left").hidden = !item;
    if (!item) return;
    const left = items.filter((other) => other.kind === item.kind && !isDecided(other));
    const isLabel = item.kind === "label";
    const bad = isLabel
      ? Math.round(left.reduce((sum, other) => sum + other.score, 0))
      : left.filter(isLikely).length;
    const undecided = counted(left.length, isLabel ? "undecided label" : "undecided issue");
    const found = isLabel
      ? bad
        ? `Probably, about ${bad.toLocaleString("en")} of ${undecided} on this page ${bad === 1 ? "is" : "are"} wrong.`
        : `Probably, none of ${undecided} on this page is wrong.`
      : `${bad ? bad.toLocaleString("en") : "None"} of ${undecided} on this page ${bad > 1 ? "have" : "has"} a score of ${LIKELY} or more.`;
    const advice = bad ? "" : " You can stop, or choose another kind.";
    at("left").textContent = left.length ? `${titleOf(item.kind)}: ${found}${advice}` : `${titleOf(item.kind)}: all decided.`;
  }

  function drawStorage() {
    at("storage").hidden = !failure;
    at("failure").replaceChildren(...coded(failure));
    at("arrived").hidden = !isAsked || !changed;
  }

  function drawBanner(list) {
    const left = items.filter((item) => !isDecided(item));
    const isDone = !list.some((item) => !isDecided(item));
    at("banner").hidden = !isDone;
    if (!isDone) return;
    const isAll = left.length === 0;
    const nothing = filter.kind || filter.label || filter.undecided ? "Nothing is left in this list." : "";
    at("finished").replaceChildren(...coded(isAll ? ending() : nothing));
    at("onward").hidden = !items.length;
    at("onward").textContent = isAll
      ? "How to apply"
      : `Go on: ${titleOf(left[0].kind)}, ${left.filter((item) => item.kind === left[0].kind).length} undecided`;
  }

  // What to do when all items of the page are decided.
  function ending() {
    const rest = data.total - items.length;
    if (!data.total) return "There are no doubtful images.";
    if (!items.length) return `To review them, run \`python -m trainers.audit\` again with \`--pictures=${data.total}\`.`;
    if (!rest) return "Everything is decided. Download `decisions.csv` and apply it.";
    return (
      `Everything on this page is decided. Download \`decisions.csv\` and apply it. The other ${counted(rest, "issue")} of the` +
      " audit are not on this page. To review them, run `python -m trainers.audit` again, with `--pictures` for more on one page."
    );
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
    drawLeft(isShown ? item : undefined);
    drawStorage();
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
    if (event.isComposing || event.keyCode === 229) return; // Safari reports the last key of a composition after its end.
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

  const MODIFIERS = ["Control", "Meta", "Alt", "AltGraph"]; // With these, a key is a shortcut or another letter.

  function onKey(event) {
    if (event.defaultPrevented || event.isComposing || MODIFIERS.some((name) => event.getModifierState(name))) return;
    const focused = document.activeElement;
    // Enter presses the button that has the focus, again and again while it is held down.
    if (event.repeat && event.key === "Enter" && focused && focused.matches("button")) event.preventDefault();
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
    hasMoved = true;
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
    onPress(at("saved"), confirmSaved);
    onPress(at("show"), showText);
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
      if (failure && changed) event.preventDefault();
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
  at("partial").hidden = items.length === data.total;
  at("partial").textContent = `${items.length.toLocaleString("en")} of ${counted(data.total, "issue")} are on this page.`;
  listen();
  watch();
  begin();
  save();
  draw();
})();
