// Tables on demand. Each data file is a script that calls TL.take(key, gzip in base64).
"use strict";
const TL = {
  waiting: new Map(),
  tables: new Map(),
  take(key, packed) {
    const table = TL.unpack(packed);
    TL.tables.set(key, table);
    const waiter = TL.waiting.get(key);
    if (waiter) { TL.waiting.delete(key); table.then(waiter.resolve, waiter.reject); }
  },
  async unpack(packed) {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(plain).json();
  },
  get(key) {
    if (TL.tables.has(key)) return TL.tables.get(key);
    const table = new Promise((resolve, reject) => {
      TL.waiting.set(key, { resolve, reject });
      const script = document.createElement("script");
      script.src = `data/${key}.js`;
      script.onerror = () => reject(new Error(`data/${key}.js is missing beside this page; write the explorer again`));
      document.head.append(script);
    });
    TL.tables.set(key, table);
    return table;
  },
};

// What a table itself has under a name: an address may ask for "constructor".
const own = (table, name) => (Object.hasOwn(table, name) ? table[name] : undefined);

const { h, render, html: plain, useState, useEffect, useMemo, useRef } = htmPreact;

// Pages of directions say so: the page's own words are changed, never a text of the run, which is a value in them.
const noun = { one: null, parts: new Map() };
const reworded = (text) => text.replace(/(?<![-"=#/.{])\b(an? )?([Ll])atent(s?)\b(?![-"=])/g, (_, article, first, many) => {
  const word = many ? `ends of ${noun.one}s` : `end of a ${noun.one}`;
  return (article ? "an " : "") + (first === "L" ? word[0].toUpperCase() + word.slice(1) : word);
});
const html = (parts, ...values) => {
  if (noun.one === null) return plain(parts, ...values);
  if (!noun.parts.has(parts)) noun.parts.set(parts, parts.map(reworded));
  return plain(noun.parts.get(parts), ...values);
};
const nounOf = (n) => (noun.one === null ? (n === 1 ? "latent" : "latents") : n === 1 ? `end of a ${noun.one}` : `ends of ${noun.one}s`);
// What one of them is called: a latent's number, or a direction's end.
const called = (member, i) => (member.directions ? `${member.directions[Math.floor(i / 2)]?.name}, ${i % 2 ? "low" : "high"} end` : String(i));

// A value that arrives later: undefined until then, an Error where it failed.
function useTable(key) {
  const [state, setState] = useState({ key: null });
  useEffect(() => {
    if (key === null) return undefined;
    let wanted = true;
    TL.get(key).then(
      (value) => wanted && setState({ key, value }),
      (error) => wanted && setState({ key, value: error }),
    );
    return () => { wanted = false; };
  }, [key]);
  return state.key === key ? state.value : undefined;
}

// Tags and notes of the reader, kept by the browser where it allows that.
const notes = {
  name: null,
  table: {},
  open(run) {
    notes.name = `thoughtlens:${run}`;
    let kept = null;
    try { kept = JSON.parse(localStorage.getItem(notes.name)); } catch { /* none that can be read */ }
    notes.table = kept && typeof kept === "object" && !Array.isArray(kept) ? kept : {};
  },
  of(key) {
    const { tag, note } = own(notes.table, key) ?? {};
    return { tag: String(tag ?? ""), note: String(note ?? "") };
  },
  set(key, value) {
    if (value.tag || value.note) notes.table[key] = value; else delete notes.table[key];
    try { localStorage.setItem(notes.name, JSON.stringify(notes.table)); } catch { /* kept until the page closes */ }
  },
  save() {
    const file = new Blob([JSON.stringify({ run: notes.name, notes: notes.table }, null, 2)], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = "notes.json";
    link.click();
    URL.revokeObjectURL(link.href);
  },
};

const show = (x) => {
  if (x === null || x === undefined) return "–";
  if (typeof x !== "number") return String(x);
  if (x === 0) return "0";
  if (Number.isInteger(x) && Math.abs(x) < 1e7) return x.toLocaleString("en-US");
  return Math.abs(x) < 1e-3 || Math.abs(x) >= 1e6 ? x.toExponential(2) : String(+x.toPrecision(3));
};
const percent = (x) => (x === null || x === undefined ? "–" : `${+(100 * x).toPrecision(3)} %`);
