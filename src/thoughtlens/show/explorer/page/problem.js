// One problem: its thoughts (or tokens), the strongest latents on each, its lens reading, and what editing does.
"use strict";

function Latents({ memberIdx, pairs }) {
  return pairs.map(([latent, act], k) => html`${k ? " · " : ""}${latentLink(memberIdx, latent)} <span class="note">${show(act)}</span>`);
}

// Rows of places by thoughts; `cell` writes one.
const PLACES = { thought_in: "thought_in: what enters it", thought_out: "thought_out: what it wrote" };
function PlaceTable({ thoughts, places, cell, named = (t) => t ?? "all" }) {
  return html`<div class="scroll"><table class="places"><thead><tr><th>thought</th>${places.map((p) => html`<th key=${p}>${own(PLACES, p) ?? p}</th>`)}</tr></thead>
    <tbody>${thoughts.map((t) => html`<tr key=${t}><td>${named(t)}</td>${places.map((p, i) => html`<td key=${p}>${cell(p, t, i) ?? "–"}</td>`)}</tr>`)}</tbody></table></div>`;
}

function ThoughtTable({ run, member, rows }) {
  return html`<${PlaceTable} thoughts=${member.thoughts} places=${member.hook_names} cell=${(_, t, i) => {
    const found = rows.find((r) => r.hook === i && r.at === t);
    return found ? html`<${Latents} memberIdx=${run.members.indexOf(member)} pairs=${found.latents} />` : null;
  }} />`;
}

function TokenTable({ run, member, rows, tokens }) {
  const [at, setAt] = useState(null);
  const here = rows.filter((r) => r.at === at);
  const most = Math.max(1e-9, ...rows.map((r) => r.latents[0][1]));
  const strongest = new Array(tokens.length).fill(0);
  rows.forEach((r) => { strongest[r.at] = Math.max(strongest[r.at], r.latents[0][1]); });
  return html`<p class="note">Colour: the strongest latent on the token. Choose a token to see its latents.</p>
    <div class="tokens">${tokens.map((token, i) => html`<span key=${i} class=${i === at ? "token peak" : "token"} role="button" tabindex="0"
      style=${heat(strongest[i] / most)} onClick=${() => setAt(i)} onKeyDown=${(e) => e.key === "Enter" && setAt(i)}>${visible(token)}</span>`)}</div>
    ${at === null ? null : html`<h2>On token ${at}</h2>${here.map((r) => html`<p>${member.hook_names[r.hook]}: <${Latents} memberIdx=${run.members.indexOf(member)} pairs=${r.latents} /></p>`)}`}`;
}

function Readings({ run, rows }) {
  if (!run.members[0].have.readings) return html`<${Missing} run=${run} table="readings" what="what each thought reads as through a lens" />`;
  if (!rows.length) return html`<p class="note">This problem was not among those that were read.</p>`;
  const thoughts = [...new Set(rows.map((r) => r.thought))].sort((a, b) => a - b), places = [...new Set(rows.map((r) => r.hook_name))];
  return [...new Set(rows.map((r) => r.lens))].map((lens) => html`<h3>${lens} lens</h3><${PlaceTable} thoughts=${thoughts} places=${places} cell=${(p, t) => {
    const found = rows.find((r) => r.lens === lens && r.hook_name === p && r.thought === t);
    return found ? found.tokens.map(([token, chance], k) => html`<span key=${k} class="tokens token" style=${heat(chance)} title=${`probability ${show(chance)}`}>${listed(token)}</span> `) : null;
  }} />`);
}

function Edits({ run, rows }) {
  if (!run.members[0].have.interventions) return html`<${Missing} run=${run} table="interventions" what="what ablating each thought does to the answer" />`;
  if (!rows.length) return html`<p class="note">This problem was not among those of the interventions.</p>`;
  const groups = [...new Set(rows.map((r) => `${r.intervention} / ${r.edit}`))];
  return groups.map((group) => {
    const own = rows.filter((r) => `${r.intervention} / ${r.edit}` === group), most = largest(own.map((r) => r.kl));
    const thoughts = [...new Set(own.map((r) => r.thought))].sort((a, b) => (a ?? 1e9) - (b ?? 1e9)), places = [...new Set(own.map((r) => r.place))];
    const entered = run.fed_back && places.every((p) => p === "thought_in");
    const named = (t) => (t === null ? "all" : entered && t > 0 ? `${t}, written by ${t - 1}` : t);
    return html`<h3>${visible(group.replaceAll("_", " "))}</h3><${PlaceTable} thoughts=${thoughts} places=${places} named=${named} cell=${(p, t) => {
      const found = own.find((r) => r.place === p && r.thought === t);
      return found ? html`<span class="token" style=${heat((found.kl || 0) / most)} title=${`KL ${show(found.kl)} nats`}>${visible(found.text)}</span> <span class="note">${found.kind}</span>` : null;
    }} />`;
  }).concat(html`<p class="note">The answer under each edit of one place (all: of every place at once), and what it is: clean, the problem's own right answer; predicted, what would follow
    from the edit; corrupted, the twin's or donor's. Colour: KL from the untouched answer, over the largest of the table. n = 1 problem; the effects over all problems stand in the report.</p>`);
}

function ProblemPage({ run, i }) {
  const problem = run.problems[i];
  const shard = useTable(problem ? `problems/${problem.shard}` : null);
  const [member, setMember] = useState(0);
  if (!problem) return html`<p class="warning" role="alert">No problem ${String(i)} here; this explorer holds ${run.problems.length}.</p>`;
  if (!Array.isArray(shard)) return html`<${Waiting} table=${shard} what="the problem" />`;
  const page = shard.find((p) => p.problem_id === problem.id), chosen = run.members[member], read = page.members[chosen.key], rows = records(run, "strongest", read);
  return html`<nav class="controls"><a href=${`#/p/${Math.max(0, i - 1)}`}>← previous</a><a href=${`#/p/${Math.min(run.problems.length - 1, i + 1)}`}>next →</a></nav>
    <h1>${visible(page.problem_id)} <span class="pill">${page.split}</span> <${Right} right=${page.right} /></h1>
    ${page.tokens ? null : html`<div class="tokens question">${visible(page.question)}</div>`}
    <ul class="facts">${page.answer ? html`<li>answer <b>${visible(page.answer)}</b></li>` : null}${page.given ? html`<li>the model says <b>${visible(page.given)}</b></li>` : null}
      ${page.cot ? html`<li>reasoning <b class="tokens">${visible(page.cot)}</b></li>` : null}</ul>
    <details><summary>labels</summary><ul class="facts">${Object.entries(page.labels).map(([k, v]) => html`<li key=${k}>${k.replaceAll("_", " ")} <b>${visible(v)}</b></li>`)}</ul></details>
    <h2>Strongest latents</h2><${Members} run=${run} chosen=${member} onPick=${setMember} />
    ${read === null ? html`<p class="note">${chosen.label} was not read on this problem.</p>`
      : page.tokens ? html`<${TokenTable} run=${run} member=${chosen} rows=${rows} tokens=${page.tokens} />`
      : html`<${ThoughtTable} run=${run} member=${chosen} rows=${rows} />`}
    <p class="note">Latent and activation, strongest first, at most six a vector. ${visible(run.thoughts_are)}</p>
    ${page.tokens ? null : html`<h2>Lens readings</h2><${Readings} run=${run} rows=${records(run, "readings", page.readings)} /><h2>What editing does</h2><${Edits} run=${run} rows=${records(run, "edits", page.edits)} />`}`;
}
