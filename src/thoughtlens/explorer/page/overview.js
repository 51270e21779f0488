// All latents of a run: map, histogram, search, table.
"use strict";

const PER_PAGE = 100;
const STATES = { all: () => true, live: (s, i) => s.columns.n_fires[i] > 0, dead: (s, i) => s.columns.n_fires[i] === 0,
  everywhere: (s, i) => s.everywhere[i] !== null };

function search(summary, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return (i) => words.every((w) => String(i) === w || (summary.words[i] || "").toLowerCase().includes(w) || (summary.label[i] || "").toLowerCase().includes(w)
    || ((notes.table[`${summary.member}/${i}`] || {}).tag || "").toLowerCase().includes(w));
}

function Overview({ run, view }) {
  const member = run.members[view.m] || run.members[0];
  const table = useTable(`${member.key}/summary`);
  const go = (change) => { location.hash = `#/?${new URLSearchParams({ ...view, page: 0, ...change })}`; };
  if (!table || table instanceof Error) return html`<${Waiting} table=${table} what="the latents" />`;
  const summary = { ...table, member: member.member };
  const kept = search(summary, view.q), state = STATES[view.state] || STATES.all;
  const value = (i) => (view.sort === "latent" ? i : view.sort === "label_strength" ? Math.abs(summary.columns.label_strength[i] || 0) : summary.columns[view.sort][i]);
  const chosen = (i) => state(summary, i) && kept(i);
  const rows = Array.from({ length: member.d_sae }, (_, i) => i).filter(chosen).sort((a, b) => (view.down === "1" ? value(b) - value(a) : value(a) - value(b)) || a - b);
  const page = Math.min(Number(view.page), Math.floor(Math.max(0, rows.length - 1) / PER_PAGE));
  const head = (key, title) => html`<th class=${key === "latent" ? "" : "n"} title=${run.definitions[key] || ""} aria-sort=${view.sort === key ? (view.down === "1" ? "descending" : "ascending") : "none"}>
    <button onClick=${() => go({ sort: key, down: view.sort === key && view.down === "1" ? "0" : "1" })}>${title}${view.sort === key ? (view.down === "1" ? " ↓" : " ↑") : ""}</button></th>`;
  const strength = summary.columns.label_strength.map((v) => (v === null ? null : Math.abs(v)));
  return html`<h1>${run.name}</h1>
    <p class="note">${run.kind === "text" ? "Tokens" : "Thoughts"} of ${run.model} at ${run.hooks.join(", ")}; statistics of split ${run.split}. thoughtlens ${run.version}.</p>
    ${run.warnings.map((w) => html`<p class="warning">${w}</p>`)}
    ${run.missing.map((m) => html`<p class="note">Not in this run: ${m.what}. To get it: <code>${m.command}</code></p>`)}
    <div class="controls">${run.members.length > 1 ? run.members.map((m, k) => html`<button key=${k} aria-pressed=${m === member} onClick=${() => go({ m: k })}>${m.member}</button>`) : null}</div>
    <ul class="facts"><li>latents <b>${show(member.d_sae)}</b></li><li>live <b>${show(member.n_alive)}</b></li><li>everywhere <b>${show(member.n_everywhere)}</b></li>
      <li title=${run.definitions.l0}>L0 <b>${show(member.l0)}</b></li><li>vectors <b>${show(member.n)}</b></li><li>${run.kind === "text" ? "documents" : "problems"} <b>${show(member.n_problems)}</b></li>
      ${member.quality.explained_variance === undefined ? null : html`<li title="on held-out rows, from validate">explained variance <b>${show(member.quality.explained_variance)}</b></li>`}</ul>
    <div class="grid"><div><h2>All latents</h2><${Scatter} x=${summary.columns.density} y=${strength} chosen=${chosen} titles=${["density", "strongest label difference"]}
      onPick=${(i) => { location.hash = `#/l/${run.members.indexOf(member)}/${i}`; }} /></div>
      <div><h2>Firing rates</h2><${Histogram} values=${summary.columns.density} label="density (log)" nZero=${member.d_sae - member.n_alive} /></div></div>
    <div class="controls"><input id="search" type="search" aria-label="search" placeholder="token, label, tag or number  ( / )" value=${view.q} onInput=${(e) => go({ q: e.target.value })} />
      <select aria-label="which" value=${view.state} onChange=${(e) => go({ state: e.target.value })}>${Object.keys(STATES).map((s) => html`<option value=${s}>${s}</option>`)}</select>
      <span class="note" role="status">${show(rows.length)} of ${show(member.d_sae)} latents</span></div>
    <table><thead><tr>${head("latent", "latent")}${head("density", "density")}${head("max_active", "max")}${head("mean_active", "mean")}${head("n_problems", run.kind === "text" ? "documents" : "problems")}
      ${head("label_strength", "label difference")}<th>label</th><th>${run.kind === "text" ? "tokens" : ""}</th></tr></thead>
      <tbody>${rows.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map((i) => html`<tr key=${i}><td><a href=${`#/l/${run.members.indexOf(member)}/${i}`}>${i}</a>
        ${summary.everywhere[i] ? html` <span class="pill bad">${summary.everywhere[i]}</span>` : null}</td>
        <td class="n">${percent(summary.columns.density[i])}</td><td class="n">${show(summary.columns.max_active[i])}</td><td class="n">${show(summary.columns.mean_active[i])}</td>
        <td class="n">${show(summary.columns.n_problems[i])}</td><td class="n">${show(summary.columns.label_strength[i])}</td><td>${summary.label[i] || "–"}</td>
        <td><span class="tokens">${summary.words[i]}</span></td></tr>`)}</tbody></table>
    <div class="controls">${page > 0 ? html`<button onClick=${() => go({ page: page - 1 })}>← ${PER_PAGE} before</button>` : null}
      ${(page + 1) * PER_PAGE < rows.length ? html`<button onClick=${() => go({ page: page + 1 })}>next ${PER_PAGE} →</button>` : null}</div>
    <h2>Problems</h2><p class="note">${show(run.problems.length)} drawn at random; each page shows which latents fire where.</p>
    <table><tbody>${run.problems.slice(0, 20).map((p, k) => html`<tr key=${k}><td><a href=${`#/p/${k}`}>${p.id}</a></td><td>${p.split}</td><td>${p.text}</td></tr>`)}</tbody></table>`;
}
