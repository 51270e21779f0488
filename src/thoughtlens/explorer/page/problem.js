// One problem: its thoughts (or tokens), and the strongest latents on each.
"use strict";

function Latents({ run, name, pairs }) {
  return pairs.map(([latent, act], k) => html`${k ? " · " : ""}${latentLink(run, name, latent)} <span class="note">${show(act)}</span>`);
}

function ThoughtTable({ run, member, rows }) {
  return html`<table><thead><tr><th>thought</th>${member.hook_names.map((hook) => html`<th key=${hook}>${hook}</th>`)}</tr></thead>
    <tbody>${member.thoughts.map((t) => html`<tr key=${t}><td>${t}</td>${member.hook_names.map((hook, i) => {
      const found = rows.find((r) => r[0] === i && r[1] === t);
      return html`<td key=${hook}>${found ? html`<${Latents} run=${run} name=${member.member} pairs=${found[2]} />` : "–"}</td>`;
    })}</tr>`)}</tbody></table>`;
}

function TokenTable({ run, member, rows, tokens }) {
  const [at, setAt] = useState(null);
  const here = rows.filter((r) => r[1] === at);
  const most = Math.max(1e-9, ...rows.map((r) => r[2][0][1]));
  const strongest = tokens.map((_, i) => Math.max(0, ...rows.filter((r) => r[1] === i).map((r) => r[2][0][1])));
  return html`<p class="note">Colour: the strongest latent on the token. Choose a token to see its latents.</p>
    <div class="tokens">${tokens.map((token, i) => html`<span key=${i} class=${i === at ? "token peak" : "token"} role="button" tabindex="0"
      style=${heat(strongest[i] / most)} onClick=${() => setAt(i)} onKeyDown=${(e) => e.key === "Enter" && setAt(i)}>${visible(token)}</span>`)}</div>
    ${at === null ? null : html`<h2>On token ${at}</h2>${here.map((r) => html`<p>${member.hook_names[r[0]]}: <${Latents} run=${run} name=${member.member} pairs=${r[2]} /></p>`)}`}`;
}

function ProblemPage({ run, i }) {
  const listed = run.problems[i];
  const shard = useTable(listed ? `problems/${listed.shard}` : null);
  const [member, setMember] = useState(0);
  if (!listed) return html`<p class="warning" role="alert">No problem ${String(i)} here; this explorer holds ${run.problems.length}.</p>`;
  if (!Array.isArray(shard)) return html`<${Waiting} table=${shard} what="the problem" />`;
  const page = shard.find((p) => p.problem_id === listed.id), chosen = run.members[member];
  return html`<nav class="controls"><a href=${`#/p/${Math.max(0, i - 1)}`}>← previous</a><a href=${`#/p/${Math.min(run.problems.length - 1, i + 1)}`}>next →</a></nav>
    <h1>${page.problem_id} <span class="pill">${page.split}</span></h1>
    ${page.tokens ? null : html`<div class="tokens">${page.question}</div>`}
    <ul class="facts">${page.answer ? html`<li>answer <b>${page.answer}</b></li>` : null}${page.cot ? html`<li>reasoning <b class="tokens">${page.cot}</b></li>` : null}
      ${Object.entries(page.labels).map(([k, v]) => html`<li key=${k}>${k.replaceAll("_", " ")} <b>${String(v)}</b></li>`)}</ul>
    <div class="controls">${run.members.length > 1 ? run.members.map((m, k) => html`<button key=${k} aria-pressed=${k === member} onClick=${() => setMember(k)}>${m.member}</button>`) : null}</div>
    <h2>Strongest latents</h2>
    ${page.tokens
      ? html`<${TokenTable} run=${run} member=${chosen} rows=${page.members[chosen.member]} tokens=${page.tokens} />`
      : html`<${ThoughtTable} run=${run} member=${chosen} rows=${page.members[chosen.member]} />`}`;
}
