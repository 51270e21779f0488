// All latents of a run: map, histogram, strips, search, table.
"use strict";

const PER_PAGE = 100;
const STATES = { all: () => true, live: (s, i) => s.columns.n_fires[i] > 0, dead: (s, i) => s.columns.n_fires[i] === 0,
  everywhere: (s, i) => s.everywhere[i] !== null, tagged: (s, i) => Object.hasOwn(notes.table, `${s.member}/${i}`) };
const TITLES = { latent: "latent", density: "density", n_fires: "fires", n_problems: "problems", mean_active: "mean", max_active: "max", label_strength: "label difference",
  auprc: "AUPRC", random_auprc: "random twin", effect: "effect on answers", direction_1: "direction, axis 1", direction_2: "direction, axis 2" };
const SHARES = new Set(["density"]);

// What a latent avoids is no hit, unless it is asked for: less:multiplication.
const LESS = "less:", AVOIDS = "fires less at ";
function search(summary, words, away, query) {
  const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return () => true;
  return (i) => {
    const label = summary.label[i] ?? "", avoids = label.startsWith(AVOIDS);
    const toward = [avoids ? "" : label, summary.called(i), words[i], notes.of(`${summary.member}/${i}`).tag].join(" ").toLowerCase();
    const from = [avoids ? label.slice(AVOIDS.length) : "", away[i]].join(" ").toLowerCase();
    return wanted.every((w) => String(i) === w || (w.startsWith(LESS) ? from.includes(w.slice(LESS.length)) : toward.includes(w)));
  };
}

function sorted(summary, rows, key, down) {
  const column = { latent: null, label: summary.label, says: summary.says }[key] ?? summary.columns[key];
  const value = (i) => (key === "latent" ? i : key === "label_strength" && column[i] !== null ? Math.abs(column[i]) : column[i]);
  // What a latent does not have stands last either way.
  return [...rows].sort((a, b) => {
    const [u, v] = [value(a), value(b)], none = [u, v].map((x) => x === null || x === undefined || x === "");
    const ties = summary.columns.n_fires[b] - summary.columns.n_fires[a] || a - b;
    if (none[0] || none[1]) return none[0] - none[1] || ties;
    return (u < v ? -1 : u > v ? 1 : 0) * (down ? -1 : 1) || ties;
  });
}

function Axes({ columns, x, y, go }) {
  const pick = (name, value) => html`<label>${name === "x" ? "across" : "up"} <select aria-label=${`axis ${name}`} value=${value} onChange=${(e) => go({ [name]: e.target.value })}>
    ${columns.map((c) => html`<option key=${c} value=${c} selected=${c === value}>${TITLES[c] || c}</option>`)}</select></label>`;
  return html`<div class="controls">${pick("x", x)}${pick("y", y)}<button onClick=${() => go({ x: "direction_1", y: "direction_2" })}>map of directions</button></div>`;
}

function Overview({ run, view }) {
  const memberIdx = /^\d{1,9}$/.test(view.m) && run.members[Number(view.m)] ? Number(view.m) : 0, member = run.members[memberIdx];
  const table = useTable(`${member.key}/summary`), found = useTable(view.q ? `${member.key}/words` : null), avoided = useTable(view.q ? `${member.key}/away` : null);
  const address = (change) => `#/?${new URLSearchParams({ ...view, page: 0, ...change })}`;
  const go = (change) => { location.hash = address(change); };
  // What is typed is one step back, not one for each letter; a second letter may come before the page is drawn again.
  const typed = (change) => { location[new URLSearchParams(location.hash.split("?")[1]).get("q") ? "replace" : "assign"](address(change)); };
  if (!table || table instanceof Error) return html`<${Waiting} table=${table} what="the latents" />`;
  const summary = { ...table, member: member.label, called: (i) => called(member, i) }, columns = Object.keys(summary.columns);
  const known = (name, otherwise) => (columns.includes(name) ? name : otherwise);
  const [x, y] = [known(view.x, "density"), known(view.y, "label_strength")];
  const bySaid = known("auprc", "label_strength"), sort = ["latent", "label", "says"].includes(view.sort) ? view.sort : known(view.sort, bySaid), down = view.down === "1";
  const kept = search(summary, Array.isArray(found) ? found : summary.says, Array.isArray(avoided) ? avoided : [], view.q), state = own(STATES, view.state) ?? STATES.all;
  const all = Array.from({ length: member.d_sae }, (_, i) => i), about = (i) => { const { kind, topic } = topicOf(summary, i); return view.t === "" || view.t === `${kind}/${topic}`; };
  const passes = all.map((i) => state(summary, i) && kept(i) && about(i));
  const rows = sorted(summary, all.filter((i) => passes[i]), sort, down);
  const page = Math.min(view.page, Math.floor(Math.max(0, rows.length - 1) / PER_PAGE));
  const units = run.kind === "text" ? "documents" : "problems";
  const head = (key, numeric = true) => html`<th key=${key} class=${numeric ? "n" : ""} title=${run.definitions[key] || ""} aria-sort=${sort === key ? (down ? "descending" : "ascending") : "none"}>
    <button onClick=${() => go({ sort: key, down: sort === key && down ? "0" : "1" })}>${key === "n_problems" ? units : TITLES[key] || key}${sort === key ? (down ? " ↓" : " ↑") : ""}</button></th>`;
  const says = summary.says.some(Boolean);
  const shown = columns.filter((c) => !c.startsWith("direction_"));
  return html`<h1>${run.name}</h1>
    <p class="note">${run.kind === "text" ? "Tokens" : "Thoughts"} of ${member.model} at ${member.hook_names.join(", ")}; statistics of split ${member.split}. thoughtlens ${run.version}.</p>
    ${run.warnings.map((w) => html`<p class="warning">${visible(w)}</p>`)}
    <${Members} run=${run} chosen=${memberIdx} onPick=${(k) => go({ m: k })} />
    <nav class="controls">${[["variables", "variables"], ["meanings", `${nounOf(2)} by meaning`], ["problem-list", units], ["latent-list", `list of ${nounOf(2)}`], ["graphs", "what makes what"], ["numbers", "numbers"]].filter(([id]) => id !== "graphs" || run.kind !== "text" || run.graphs.length).map(([id, what]) => html`<button key=${id} onClick=${() => document.getElementById(id)?.scrollIntoView()}>${what}</button>`)}</nav>
    <${Variables} run=${run} />
    <${Groups} run=${run} member=${member} memberIdx=${memberIdx} summary=${summary} go=${(change) => { go(change); document.getElementById("latent-list")?.scrollIntoView(); }} />
    <${Problems} run=${run} units=${units} />
    <h2 id="latent-list">All latents</h2><div class="controls"><input id="search" type="search" aria-label="search" title="what a latent fires more at; less:WORD, what it fires less at" placeholder="text, label, token, logit token, tag or number  ( / )" value=${view.q} onInput=${(e) => typed({ q: e.target.value })} />
      <select aria-label="which" value=${view.state} onChange=${(e) => go({ state: e.target.value })}>${Object.keys(STATES).map((s) => html`<option value=${s} selected=${s === view.state}>${s}</option>`)}</select>
      ${view.t ? html`<button title="show all again" onClick=${() => go({ t: "" })}>only: ${visible(view.t.slice(view.t.indexOf("/") + 1))} ×</button>` : null}
      <span class="note" role="status">${show(rows.length)} of ${show(member.d_sae)} latents</span></div>
    <div class="scroll"><table class="latents"><thead><tr>${head("latent", false)}${says ? head("says", false) : null}${head("label", false)}${shown.map((c) => head(c))}</tr></thead>
      <tbody>${rows.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map((i) => html`<tr key=${i}><td><a href=${`#/l/${memberIdx}/${i}`}>${visible(called(member, i))}</a>
        ${summary.everywhere[i] ? html` <span class="pill bad">${summary.everywhere[i]}</span>` : null}${notes.of(`${summary.member}/${i}`).tag ? html` <span class="pill">${visible(notes.of(`${summary.member}/${i}`).tag)}</span>` : null}</td>
        ${says ? html`<td><span class="tokens">${visible(summary.says[i]) || "–"}</span></td>` : null}<td>${visible(summary.label[i] || "–")}</td>
        ${shown.map((c) => html`<td key=${c} class="n">${(SHARES.has(c) ? percent : show)(summary.columns[c][i])}</td>`)}</tr>`)}</tbody></table></div>
    <div class="controls">${page > 0 ? html`<button onClick=${() => go({ page: page - 1 })}>← ${PER_PAGE} before</button>` : null}
      ${(page + 1) * PER_PAGE < rows.length ? html`<button onClick=${() => go({ page: page + 1 })}>next ${PER_PAGE} →</button>` : null}</div>
    <${Moves} run=${run} /><${Graphs} run=${run} />
    <h2 id="numbers">Numbers</h2>
    <ul class="facts"><li>latents <b>${show(member.d_sae)}</b></li>${member.directions ? null : html`<li>live <b>${show(member.n_alive)}</b></li><li>dead <b>${show(member.d_sae - member.n_alive)}</b></li><li>everywhere <b>${show(member.n_everywhere)}</b></li>
      <li title=${run.definitions.l0}>L0 <b>${show(member.l0)}</b></li>`}<li>vectors <b>${show(member.n)}</b></li><li>${units} <b>${show(member.n_problems)}</b></li>
      ${member.quality.explained_variance === undefined ? null : html`<li title="from validate">explained variance <b>${show(member.quality.explained_variance)}</b> <span class="note">n = ${show(member.quality.n)}, split ${member.quality.split}</span></li>`}</ul>
    <div class="grid two"><section><h3>All latents as points</h3><${Axes} columns=${columns} x=${x} y=${y} go=${go} />
        <${Scatter} x=${summary.columns[x]} y=${y === "label_strength" ? summary.columns[y].map((v) => (v === null ? null : Math.abs(v))) : summary.columns[y]} axes=${[x, y]}
          chosen=${(i) => passes[i]} marked=${(i) => summary.everywhere[i] !== null} onPick=${(i) => { location.hash = `#/l/${memberIdx}/${i}`; }} />
        <p class="note">Across: ${run.definitions[x]}. Up: ${run.definitions[y]}. Squares fire everywhere, grey points are filtered out. A click opens the latent.
          ${x.startsWith("direction") ? ` The two axes hold ${percent(summary.direction_share)} of the directions' variance.` : ""} n = ${show(member.n)} vectors, split ${member.split}.</p></section>
      <section><h3>Firing rates</h3><${LogHistogram} values=${summary.columns.density} label="density (log)" nZero=${member.d_sae - member.n_alive} />
        <p class="note">Density: ${run.definitions.density}; n = ${show(member.n)} vectors, split ${member.split}.</p>
        ${member.have.lens_latents ? null : html`<${Missing} run=${run} table="lens_latents" what="tokens that each latent promotes" />`}
        ${member.have.reconstruction ? null : html`<${Missing} run=${run} table="reconstruction" what="reconstruction on held-out rows" />`}</section></div>
    ${member.strips.length ? html`<h2>Layers × thoughts</h2><div class="grid two">${member.strips.map((s, k) => html`<section key=${k}><h3>${visible(s.title)}</h3><${Strip} ...${s} max=${largest(s.values.flat())} /><p class="note">${visible(s.note)}</p></section>`)}</div>${run.thoughts_are ? html`<p class="note">${visible(run.thoughts_are)}</p>` : null}` : null}`;
}

// Which thought moves which: the matrices that the influence stage measured.
function Moves({ run }) {
  if (run.kind === "text") return null;
  const found = run.moves;
  return html`<h2 id="moves">Who moves whom</h2>${found ? html`${found.says.map((line) => html`<p>${line}</p>`)}
    <p class="note">Each table: ${found.what}. Rows: the thought that is edited; columns: the one that is compared. Direct: the thoughts between are held as they were.</p>
    <div class="grid two">${found.matrices.map((m) => html`<section key=${m.title}><h3>${m.title}</h3>
      <${Strip} rows=${m.edited} thoughts=${m.moved} values=${m.values} max=${largest(m.values.flat())} format=${(v) => (v === null ? "" : show(v))} /></section>`)}</div>`
    : html`<${Missing} run=${run} table="moves" what="which thought moves which" />`}`;
}

function Problems({ run, units }) {
  const [all, setAll] = useState(false), [which, setWhich] = useState("all");
  const kept = run.problems.map((p, k) => [p, k]).filter(([p]) => which === "all" || p.right === (which === "right"));
  const judged = run.problems.some((p) => p.right === true || p.right === false);
  return html`<h2 id="problem-list">${units === "problems" ? "Problems" : "Documents"}</h2><p class="note">${run.problems_are}. Each page shows which latents fire where.</p>
    ${judged ? html`<div class="controls"><select id="answers" aria-label="answers" value=${which} onChange=${(e) => setWhich(e.target.value)}><option value="all">all answers</option><option value="right">right</option><option value="wrong">wrong</option></select>
      <span class="note">${show(kept.length)} of ${show(run.problems.length)} ${units}</span></div>` : null}
    <table id="problems"><tbody>${kept.slice(0, all ? undefined : 20).map(([p, k]) => html`<tr key=${k}><td><a href=${`#/p/${k}`}>${visible(p.id)}</a></td><td>${p.split}</td><td>${visible(p.text)}</td><td><${Right} right=${p.right} /></td></tr>`)}</tbody></table>
    ${all || kept.length <= 20 ? null : html`<div class="controls"><button onClick=${() => setAll(true)}>all ${show(kept.length)}</button></div>`}`;
}
