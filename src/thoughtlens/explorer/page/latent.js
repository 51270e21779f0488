// One latent, and two side by side.
"use strict";

const FACTS = [["density", percent], ["n_fires", show], ["n_problems", show], ["mean_active", show], ["max_active", show]];

function Associations({ rows, factor, unit }) {
  const chosen = rows.filter((r) => factor(r[0])).sort((a, b) => Math.abs(b[3]) - Math.abs(a[3])).slice(0, 14);
  if (!chosen.length) return null;
  return html`<table><thead><tr><th>${unit}</th><th class="n">effect</th><th class="n">95 % interval</th><th class="n">q</th>
    <th class="n">fires</th><th class="n">problems</th></tr></thead>
    <tbody>${chosen.map(([name, level, statistic, value, low, high, q, fires, problems], i) => html`<tr key=${i}>
      <td>${name === "token" ? "" : `${name.replace("label:", "")} = `}<span class="tokens">${visible(level)}</span></td>
      <td class="n" title=${statistic}>${statistic === "lift" ? `× ${show(value)}` : `${value > 0 ? "+" : ""}${show(100 * value)} points`}</td>
      <td class="n">${statistic === "lift" ? `${show(low)} to ${show(high)}` : `${show(100 * low)} to ${show(100 * high)}`}</td>
      <td class="n">${show(q)}</td><td class="n">${show(fires)}</td><td class="n">${show(problems)}</td></tr>`)}</tbody></table>`;
}

function Example({ example, member, max, run }) {
  const place = example.tokens ? `position ${example.position}` : `thought ${example.thought}`;
  const known = run.problems.findIndex((p) => p.id === example.problem);
  const name = known < 0 ? example.problem : html`<a href=${`#/p/${known}`}>${example.problem}</a>`;
  return html`<div class="example"><div class="head">${show(example.value)} · ${example.hook} · ${place} · ${name} · ${example.split}</div>
    ${example.tokens
      ? html`<${Tokens} tokens=${example.tokens} acts=${example.acts} peak=${example.peak} max=${max} />`
      : html`<div class="tokens">${example.question}</div><${Strip} hooks=${member.hook_names} thoughts=${member.thoughts}
          values=${example.strip} max=${max} here=${[example.hook, example.thought]} />`}</div>`;
}

function Notes({ id }) {
  const [value, setValue] = useState(notes.table[id] || { tag: "", note: "" });
  useEffect(() => setValue(notes.table[id] || { tag: "", note: "" }), [id]);
  const change = (key) => (e) => { const next = { ...value, [key]: e.target.value }; setValue(next); notes.set(id, next); };
  return html`<h2>Your tag and note</h2><div class="controls"><input aria-label="tag" placeholder="tag" value=${value.tag} onInput=${change("tag")} />
    <button onClick=${notes.save}>Save all notes as JSON</button></div>
    <textarea aria-label="note" placeholder="note" value=${value.note} onInput=${change("note")}></textarea>`;
}

function useLatent(run, memberIdx, i) {
  const member = run.members[memberIdx];
  const summary = useTable(member ? `${member.key}/summary` : null);
  const ready = summary && !(summary instanceof Error) && i < member.d_sae;
  const shard = useTable(ready ? `${member.key}/${Math.floor(i / summary.per_shard)}` : null);
  return { member, summary, shard, detail: ready && Array.isArray(shard) ? shard[i % summary.per_shard] : null };
}

function LatentPanel({ run, memberIdx, i, compact }) {
  const { member, summary, shard, detail } = useLatent(run, memberIdx, i);
  if (!member || (member && !(i < member.d_sae)))
    return html`<p class="warning" role="alert">No latent ${String(i)} here; this run has ${run.members.map((m) => `${m.member}: 0 to ${m.d_sae - 1}`).join(", ")}.</p>`;
  if (!detail) return html`<${Waiting} table=${summary instanceof Error ? summary : shard} what=${`latent ${i}`} />`;
  const max = summary.columns.max_active[i] || 1, reason = summary.everywhere[i];
  const text = run.kind === "text";
  return html`<article><h1>Latent ${i} <span class="pill">${member.member}</span>
      ${reason ? html` <span class="pill bad">everywhere: ${reason}</span>` : null}
      ${summary.columns.n_fires[i] === 0 ? html` <span class="pill bad">dead on these rows</span>` : null}</h1>
    <ul class="facts">${FACTS.map(([key, format]) => html`<li key=${key} title=${run.definitions[key] || ""}>${key.replaceAll("_", " ")} <b>${format(summary.columns[key][i])}</b></li>`)}</ul>
    <p class="note">n = ${show(member.n)} vectors of ${show(member.n_problems)} ${text ? "documents" : "problems"}, split ${run.split}; hooks ${member.hook_names.join(", ")}.</p>
    <div class=${compact ? "" : "grid"}>
      <section><h2>Labels</h2><${Associations} rows=${detail.associations} unit="label" factor=${(f) => f.startsWith("label:")} />
        <p class="note">Effect: ${run.definitions["rate difference"]}; rate_in: ${run.definitions.rate_in}. q: ${run.definitions.q_value}.</p></section>
      <section><h2>${text ? "Tokens" : "Layers and thoughts"}</h2>
        <${Associations} rows=${detail.associations} unit=${text ? "token" : "place"} factor=${(f) => !f.startsWith("label:") && f !== "position"} />
        <p class="note">Effect: ${run.definitions[text ? "lift" : "rate difference"]}.</p></section>
    </div>
    <h2>Strongest examples</h2><p class="note">Largest activations, at most one a ${text ? "document" : "problem"}; colour: activation over the latent's maximum.</p>
    ${detail.examples.length ? null : html`<p class="note">It never fires on these rows.</p>`}
    ${detail.examples.slice(0, compact ? 6 : 20).map((e, k) => html`<${Example} key=${k} example=${e} member=${member} max=${max} run=${run} />`)}
    <h2>Nearest directions</h2><p class="note">Latents of the highest cosine between decoder rows.</p>
    <ul class="facts">${detail.neighbours.map(([j, cosine]) => html`<li key=${j}><a href=${`#/l/${memberIdx}/${j}`}>${j}</a> <b>${show(cosine)}</b>
      <span class="note"> ${summary.words[j] || summary.label[j] || ""}</span></li>`)}</ul>
    ${compact ? null : html`<${Notes} id=${`${member.member}/${i}`} />`}</article>`;
}

function LatentPage({ run, memberIdx, i }) {
  const member = run.members[memberIdx];
  const last = member ? member.d_sae - 1 : 0;
  return html`<nav class="controls"><a href=${`#/l/${memberIdx}/${Math.max(0, i - 1)}`}>← previous</a>
      <a href=${`#/l/${memberIdx}/${Math.min(last, i + 1)}`}>next →</a><a href=${`#/c/${memberIdx}/${i}/${memberIdx}/${Math.min(last, i + 1)}`}>compare</a></nav>
    <${LatentPanel} run=${run} memberIdx=${memberIdx} i=${i} />`;
}

function ComparePage({ run, a, b }) {
  const chooser = (side, other, first) => html`<form class="controls" onSubmit=${(e) => {
    e.preventDefault();
    const pick = `${e.target.member.value}/${Number(e.target.latent.value)}`, rest = `${other[0]}/${other[1]}`;
    location.hash = first ? `#/c/${pick}/${rest}` : `#/c/${rest}/${pick}`;
  }}><select name="member" aria-label="SAE">${run.members.map((m, k) => html`<option value=${k} selected=${k === side[0]}>${m.member}</option>`)}</select>
    <input name="latent" aria-label="latent" type="number" min="0" value=${side[1]} /><button>show</button></form>`;
  return html`<div class="grid"><div>${chooser(a, b, true)}<${LatentPanel} run=${run} memberIdx=${a[0]} i=${a[1]} compact /></div>
    <div>${chooser(b, a, false)}<${LatentPanel} run=${run} memberIdx=${b[0]} i=${b[1]} compact /></div></div>`;
}
