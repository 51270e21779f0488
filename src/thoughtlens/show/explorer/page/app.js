// Address to page, keys, theme. Addresses can be shared: #/?q=..., #/l/SAE/LATENT, #/c/..., #/s/SAE/SAE, #/p/N, #/g/N.
"use strict";

const DEFAULTS = { m: "0", q: "", state: "all", t: "", sort: "", down: "1", page: "0", x: "", y: "" };

let labels = [];

const decoded = (text) => { try { return decodeURIComponent(text); } catch { return text; } };

// An SAE is named by its number or its label; what is no number of anything becomes -1.
function parse(hash) {
  const [path, ...query] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean), whole = (text) => (/^\d{1,9}$/.test(text) ? Number(text) : -1);
  const idx = (name) => (/^\d+$/.test(name) ? whole(name) : labels.indexOf(decoded(name)));
  const numbers = parts.slice(1).map((part, k) => (k % 2 && parts[0] !== "s" ? whole(part) : idx(part)));
  if (parts[0] === "l") return { page: "latent", memberIdx: numbers[0], i: numbers[1] };
  if (parts[0] === "c") return { page: "compare", a: [numbers[0] ?? 0, numbers[1] ?? 0], b: [numbers[2] ?? numbers[0] ?? 0, numbers[3] ?? 0] };
  if (parts[0] === "s") return { page: "saes", a: numbers[0] ?? 0, b: numbers[1] ?? 0 };
  if (parts[0] === "p") return { page: "problem", i: numbers[0] };
  if (parts[0] === "g") return { page: "graph", i: whole(parts[1] ?? "") };
  const asked = new URLSearchParams(query.join("?")), view = { ...DEFAULTS };
  Object.keys(DEFAULTS).forEach((key) => { view[key] = asked.get(key) ?? DEFAULTS[key]; });
  return { page: "overview", view: { ...view, page: Math.max(0, Math.floor(Number(view.page))) || 0 } };
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("thoughtlens:theme", theme); } catch { /* not remembered */ }
}

const KEYS = [["/", "search"], ["j, →", "next latent or problem"], ["k, ←", "previous"], ["o", "overview"], ["c", "compare"], ["d", "dark or light"], ["?", "this list"]];

function step(by) {
  const at = parse(location.hash);
  if (at.page === "latent") location.hash = `#/l/${at.memberIdx}/${Math.max(0, at.i + by * (noun.one === null ? 1 : 2))}`;
  if (at.page === "problem") location.hash = `#/p/${Math.max(0, at.i + by)}`;
}

function compare() {
  const at = parse(location.hash);
  if (at.page === "latent") location.hash = `#/c/${at.memberIdx}/${at.i}/${at.memberIdx}/${at.i + 1}`;
  if (at.page === "compare") location.hash = `#/s/${at.a[0]}/${at.b[0]}`;
  if (at.page === "overview") location.hash = `#/s/${Number(at.view.m) || 0}/${(Number(at.view.m) || 0) === 0 ? 1 : 0}`;
}

function onKey(event) {
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    "/": () => { if (parse(location.hash).page !== "overview") location.hash = "#/"; setTimeout(() => document.getElementById("search")?.focus(), 30); },
    j: () => step(1), ArrowRight: () => step(1), k: () => step(-1), ArrowLeft: () => step(-1),
    o: () => { location.hash = "#/"; },
    c: compare,
    d: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
    "?": () => document.getElementById("keys").showModal(),
  };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
}

function App({ run }) {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const change = () => { setHash(location.hash); if (!location.hash.startsWith("#/?")) scrollTo(0, 0); };
    addEventListener("hashchange", change);
    addEventListener("keydown", onKey);
    return () => { removeEventListener("hashchange", change); removeEventListener("keydown", onKey); };
  }, []);
  const at = parse(hash);
  return html`<header><strong><a href="#/">${visible(run.name)}</a></strong><span class="note">${visible(run.model)}</span><span class="spacer"></span>
      <a href="#/">Overview</a><a href="#/c/0/0/0/1">Compare latents</a>${run.members.length > 1 ? html`<a href="#/s/0/1">Compare SAEs</a>` : null}<button onClick=${() => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark")}>dark / light</button>
      <button onClick=${() => document.getElementById("keys").showModal()}>keys</button></header>
    <main>${at.page === "latent" ? html`<${LatentPage} run=${run} memberIdx=${at.memberIdx} i=${at.i} />`
      : at.page === "compare" ? html`<${ComparePage} run=${run} a=${at.a} b=${at.b} />`
      : at.page === "saes" ? html`<${SaePage} run=${run} a=${at.a} b=${at.b} />`
      : at.page === "graph" ? html`<${GraphPage} run=${run} i=${at.i} />`
      : at.page === "problem" ? html`<${ProblemPage} run=${run} i=${at.i} />`
      : html`<${Overview} run=${run} view=${at.view} />`}
      <details><summary>Definitions</summary><dl>${Object.entries(run.definitions).map(([name, text]) => html`<dt key=${name}>${visible(name.replaceAll("_", " "))}</dt><dd>${visible(text)}</dd>`)}</dl></details></main>
    <dialog id="keys"><h2>Keys</h2><dl class="keys">${KEYS.map(([key, what]) => html`<dt>${key}</dt><dd>${what}</dd>`)}</dl>
      <form method="dialog"><button>close</button></form></dialog>`;
}

// On paper nothing can be unfolded or pointed at.
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((d) => { d.open = true; d.dataset.printed = ""; }));
addEventListener("afterprint", () => document.querySelectorAll("details[data-printed]").forEach((d) => { d.open = false; delete d.dataset.printed; }));

let theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
try { theme = localStorage.getItem("thoughtlens:theme") || theme; } catch { /* as the system has it */ }
document.documentElement.dataset.theme = theme;
TL.get("run").then((run) => {
  notes.open(run.id);
  labels = run.members.map((m) => m.label);
  if (run.members.every((m) => m.directions)) noun.one = "direction";
  if (noun.one !== null) run.definitions = Object.fromEntries(Object.entries(run.definitions).map(([name, text]) => [name, reworded(text)]));
  document.title = `${run.name} · thoughtlens`;
  const root = document.getElementById("app");
  root.textContent = "";
  render(html`<${App} run=${run} />`, root);
});
