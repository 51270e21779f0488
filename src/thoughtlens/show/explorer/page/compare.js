// Two latents side by side, and two SAEs (of one run, of two seeds, of two models).
"use strict";

function ComparePage({ run, a, b }) {
  const chooser = (side, other, first) => html`<form class="controls" onSubmit=${(e) => {
    e.preventDefault();
    const pick = `${e.target.member.value}/${Number(e.target.latent.value)}`, rest = `${other[0]}/${other[1]}`;
    location.hash = first ? `#/c/${pick}/${rest}` : `#/c/${rest}/${pick}`;
  }}><select name="member" aria-label="SAE">${run.members.map((m, k) => html`<option value=${k} selected=${k === side[0]}>${m.label}</option>`)}</select>
    <input name="latent" aria-label="latent" type="number" min="0" value=${side[1]} /><button>show</button></form>`;
  return html`<nav class="controls"><a href=${`#/s/${a[0]}/${b[0]}`}>compare the SAEs</a></nav>
    <div class="grid two"><div>${chooser(a, b, true)}<${LatentPanel} run=${run} memberIdx=${a[0]} i=${a[1]} compact /></div>
    <div>${chooser(b, a, false)}<${LatentPanel} run=${run} memberIdx=${b[0]} i=${b[1]} compact /></div></div>`;
}

const SAE_ROWS = [
  ["run", (m) => m.run], ["model", (m) => m.model], ["kind", (m) => m.kind], ["hooks", (m) => m.hook_names.join(", ")],
  ["thoughts", (m) => (m.thoughts ? m.thoughts.join(", ") : "–")], ["latents", (m) => show(m.d_sae)], ["live", (m) => show(m.n_alive)],
  ["everywhere", (m) => show(m.n_everywhere)], ["L0", (m) => show(m.l0)], ["vectors", (m) => show(m.n)], ["problems", (m) => show(m.n_problems)], ["split", (m) => m.split],
  ["explained variance", (m) => (m.quality.explained_variance === undefined ? "–" : `${show(m.quality.explained_variance)} (n = ${show(m.quality.n)}, split ${m.quality.split})`)],
];

function Side({ run, member }) {
  const summary = useTable(member ? `${member.key}/summary` : null);
  if (!summary || summary instanceof Error) return html`<${Waiting} table=${summary} what="the latents" />`;
  return html`<h2>${member.label}: firing rates</h2><${LogHistogram} values=${summary.columns.density} label="density (log)" nZero=${member.d_sae - member.n_alive} />
    ${member.strips.map((s) => html`<h2 key=${s.title}>${s.title}</h2><${Strip} ...${s} max=${largest(s.values.flat())} /><p class="note">${s.note}</p>`)}`;
}

function MatchesBy({ run, a, b, by, rows }) {
  const middle = (k) => [...rows].sort((x, y) => x[k] - y[k])[Math.floor(rows.length / 2)][k], above = rows.filter((r) => r.score > r.null_score).length;
  const bins = (k) => { const counts = new Array(20).fill(0); rows.forEach((r) => { counts[Math.min(19, Math.max(0, Math.floor(20 * r[k])))] += 1; }); return counts; };
  return html`<h3>by ${by}</h3><p>n = ${show(rows.length)} latents of ${run.members[a].label}; median score <b>${show(middle("score"))}</b> against <b>${show(middle("null_score"))}</b> under the null;
      <b>${percent(above / rows.length)}</b> score above their null.</p>
    <div class="grid"><${Bars} counts=${bins("score")} low="0" high="1" label="score of the best match" unit="latents" /><${Bars} counts=${bins("null_score")} low="0" high="1" label="score under the null" unit="latents" /></div>
    <div class="scroll"><table><thead><tr><th>${run.members[a].label}</th><th>${run.members[b].label}</th><th class="n">score</th><th class="n">null</th><th></th></tr></thead>
      <tbody>${rows.slice(0, 100).map(({ latent, other, score, null_score }, k) => html`<tr key=${k}><td>${latentLink(a, latent)}</td><td>${latentLink(b, other)}</td><td class="n">${show(score)}</td><td class="n">${show(null_score)}</td><td><a href=${`#/c/${a}/${latent}/${b}/${other}`}>side by side</a></td></tr>`)}</tbody></table></div>`;
}

function Matches({ run, a, b }) {
  const table = useTable(run.members[a].have.matches ? `${run.members[a].key}/matches` : null);
  if (!run.members[a].have.matches) return html`<${Missing} run=${run} table="matches" what=${`which latents of ${run.members[a].label} have a match in another SAE`} />`;
  if (!Array.isArray(table)) return html`<${Waiting} table=${table} what="the matches" />`;
  const known = records(run, "matches", table), rows = known.filter((r) => r.sae_idx === b).sort((x, y) => y.score - x.score);
  if (!rows.length) return html`<p class="note">Matches of ${run.members[a].label} were looked for in ${[...new Set(known.map((r) => visible(r.sae)))].join(", ") || "no SAE"}, not in ${run.members[b].label}.
    ${" "}<a href=${`#/s/${b}/${a}`}>The other way round</a></p>`;
  return [...new Set(rows.map((r) => r.by))].map((by) => html`<${MatchesBy} key=${by} run=${run} a=${a} b=${b} by=${by} rows=${rows.filter((r) => r.by === by)} />`);
}

function SaePage({ run, a, b }) {
  const [one, two] = [run.members[a], run.members[b]];
  if (!one || !two) return html`<p class="warning" role="alert">No such SAE; this explorer holds ${run.members.map((m, k) => `${k}: ${m.label}`).join(", ")}.</p>`;
  return html`<h1>Two SAEs</h1><${Members} run=${run} chosen=${a} onPick=${(k) => { location.hash = `#/s/${k}/${b}`; }} />
    <${Members} run=${run} chosen=${b} onPick=${(k) => { location.hash = `#/s/${a}/${k}`; }} />
    <div class="scroll"><table><thead><tr><th></th><th>${one.label}</th><th>${two.label}</th></tr></thead>
      <tbody>${SAE_ROWS.map(([name, read]) => html`<tr key=${name}><th>${name}</th><td>${read(one)}</td><td>${read(two)}</td></tr>`)}</tbody></table></div>
    <h2>Matching latents</h2><${Matches} run=${run} a=${a} b=${b} />
    <div class="grid two"><div><${Side} run=${run} member=${one} /></div><div><${Side} run=${run} member=${two} /></div></div>`;
}
