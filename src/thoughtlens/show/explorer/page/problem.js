// One problem: its thoughts (or tokens), the strongest latents on each, its lens reading, and what editing does.
"use strict";

// Every latent that fires on a vector, in words: strongest first, those without a firm claim in grey. Of a claim in
// several clauses the one about this thought and hook; ✗ where what it says is not so here.
function Said({ memberIdx, row, summary, thought, hook }) {
  if (!row) return html`<span class="note">none fires</span>`;
  const words = (i, so) => {
    const clauses = summary?.claims[i], own = clauses?.[so] ?? clauses?.find(([, thoughts, hooks]) => (!thoughts || thoughts.includes(thought)) && (!hooks || hooks.includes(hook)));
    if (clauses) return own ? own[0] : `${clauses[0][0]} (said of ${clauses[0][1] ? `thought${clauses[0][1].length > 1 ? "s" : ""} ${clauses[0][1].join(", ")}` : "other places"})`;
    const says = summary?.says[i] ?? "", label = summary?.label[i];
    return (says === UNKNOWN || !says) && label ? `${says ? `${UNKNOWN}; ` : ""}${label.startsWith(AVOIDS) ? label : `more at ${label}`}` : says || UNKNOWN;
  };
  return html`<ul class="said">${row.latents.map(([latent, act, so]) => { const firm = (summary?.columns.auprc?.[latent] ?? 0) >= FIRM;
      return html`<li key=${latent} title=${`activation ${show(act)}${summary?.columns.auprc ? `, AUPRC ${show(summary.columns.auprc[latent])}` : ""}: ${visible(summary?.says[latent])}`}>${latentLink(memberIdx, latent)} <span class=${firm ? "" : "note"}>${visible(words(latent, so))}</span>${so === -1 ? html` <span class="pill bad" title="what it says is not so here">✗</span>` : so >= 0 && so !== null ? html` <span class="pill" title="what it says is so here">✓</span>` : null}</li>`; })}
    ${row.n > row.latents.length ? html`<li class="note">and ${show(row.n - row.latents.length)} weaker</li>` : null}</ul>`;
}

// Rows of places by thoughts; `cell` writes one.
const PLACES = { thought_in: "thought_in: what enters it", thought_out: "thought_out: what it wrote" };
function PlaceTable({ thoughts, places, cell, named = (t) => t ?? "all" }) {
  return html`<div class="scroll"><table class="places"><thead><tr><th>thought</th>${places.map((p) => html`<th key=${p}>${own(PLACES, p) ?? p}</th>`)}</tr></thead>
    <tbody>${thoughts.map((t) => html`<tr key=${t}><td>${named(t)}</td>${places.map((p, i) => html`<td key=${p}>${cell(p, t, i) ?? "–"}</td>`)}</tr>`)}</tbody></table></div>`;
}

// What was changed of what a thought wrote: an edit of what enters thought t + 1 is one of what t wrote.
const wroteAt = (run, edit) => (edit.thought === null ? null : edit.place === "thought_in" && run.fed_back ? edit.thought - 1 : edit.thought);

// By kind of edit, the answers it gives and how often.
function Edited({ edits, given }) {
  const kinds = [...new Set(edits.map((e) => e.edit.split("_")[0]))], same = (text) => text.trim() === String(given ?? "").trim();
  const counts = (kind) => { const found = new Map(); edits.filter((e) => e.edit.split("_")[0] === kind).forEach((e) => found.set(e.text, (found.get(e.text) ?? 0) + 1)); return [...found].sort((a, b) => b[1] - a[1]); };
  return kinds.length ? html`<ul class="said">${kinds.map((kind) => html`<li key=${kind}><span class="note">${visible(kind)}:</span> ${counts(kind).map(([text, n], k) => html`${k ? ", " : ""}${same(text) ? html`<span class="note">${visible(text)}</span>` : html`<b>${visible(text)}</b>`}${n > 1 ? html`<span class="note"> ×${n}</span>` : null}`)}</li>`)}</ul>` : "–";
}

const Verdict = ({ right }) => (right === true ? html` <span class="pill">✓</span>` : right === false ? html` <span class="pill bad">✗ another value</span>` : null);

function Chain({ run, page, member, memberIdx, rows, summary, edits }) {
  const steps = records(run, "chain", page.chain), thoughts = [...new Set([...(member.thoughts ?? []), ...steps.map((s) => s.thought)])].sort((a, b) => a - b);
  const one = member.hook_names.length === 1, edited = edits.some((e) => e.thought !== null);
  return html`<div class="scroll"><table class="chain"><thead><tr><th>thought</th>${steps.length ? html`<th>reads as</th><th>true here</th>` : null}${member.hook_names.map((hook) => html`<th key=${hook}>${one ? "latents" : hook}</th>`)}${edited ? html`<th>the answer if it is changed</th>` : null}</tr></thead>
    <tbody>${thoughts.map((t) => { const step = steps.find((s) => s.thought === t), [first, ...rest] = step?.tokens ?? [];
      return html`<tr key=${t} class=${step?.right === false ? "wrong" : ""}><th>${t}${t === 0 ? html`<div class="note">before any thought</div>` : null}</th>
        ${steps.length ? html`<td>${first ? html`<span class="tokens token" style=${heat(first[1])}>${listed(first[0])}</span> <span class="note">${share(first[1])}</span>
          ${rest.length && first[1] < 0.95 ? html`<div class="note">or ${rest.map(([token, p], k) => html`${k ? ", " : ""}<span class="tokens">${listed(token)}</span> ${share(p)}`)}</div>` : null}` : "–"}</td>
        <td>${step?.value !== null && step?.value !== undefined ? html`<b class="tokens">${visible(step.value)}</b> <span class="note">${visible(step.column.replaceAll("_", " "))}</span><${Verdict} right=${step.right} />` : "–"}</td>` : null}
        ${member.hook_names.map((hook, j) => html`<td key=${hook}><${Said} memberIdx=${memberIdx} row=${rows.find((r) => r.hook === j && r.at === t)} summary=${summary} thought=${t} hook=${hook} /></td>`)}
        ${edited ? html`<td><${Edited} edits=${edits.filter((e) => wroteAt(run, e) === t)} given=${page.given} /></td>` : null}</tr>`; })}</tbody></table></div>
    <p class="note">${steps.length ? `Reads as: the likeliest token of each thought, and how likely, by the ${visible(run.read_by)}. True here: the column of this problem that the same lens reads in this thought most often over all problems, and its value; ✗ where another value of that column is read, no mark where no value of it is. ` : ""}Latents: strongest first, with what they say (grey: it holds too seldom to be relied on, AUPRC under ${FIRM}; ✓ and ✗: whether it is so here). ${edited ? "The answer if what this thought wrote, or its state at a layer, is changed, by kind of edit (×: by so many edits; grey: unchanged). " : ""}${visible(run.thoughts_are)}</p>`;
}

// The chain that the thoughts computed, step by step, and what its tests showed.
function Trace({ rows }) {
  const said = (x) => (x === null ? "–" : x ? "yes" : "no");
  return rows.length ? html`<h2>The chain that its thoughts computed</h2><div class="scroll"><table class="places"><thead><tr><th>step</th><th>read</th><th>at thought</th><th>how sure</th><th>other problems</th><th>follows another operand</th><th>the answer follows the thought</th><th>the next value does</th><th></th></tr></thead>
    <tbody>${rows.map((r) => html`<tr key=${r.step}><td>${r.step}</td><td><b class="tokens">${visible(r.said)}</b>${r.read_by && r.read_by !== "logit lens" ? html` <span class="note">by the ${r.read_by}</span>` : null}</td><td>${r.thought}</td><td>${r.probability === null ? "–" : share(r.probability)}</td><td>${r.null === null ? "–" : share(r.null)}</td><td>${said(r.reading_follows)}</td><td>${said(r.patched)}${r.route ? html` <span class="note">${r.route}</span>` : null}</td><td>${said(r.next_follows)}</td><td><span class=${r.label === "verified" ? "pill" : "pill bad"}>${r.label}</span></td></tr>`)}</tbody></table></div>
    <p class="note">Found without the labels: what is read is joined to steps, and each step is tested with another operand in the question, and with that run's thought put in. Other problems: how sure the same thought of others is of the same word.</p>` : null;
}

function TokenTable({ run, member, rows, tokens, summary }) {
  const [at, setAt] = useState(null);
  const here = rows.filter((r) => r.at === at);
  const most = Math.max(1e-9, ...rows.map((r) => r.latents[0][1]));
  const strongest = new Array(tokens.length).fill(0);
  rows.forEach((r) => { strongest[r.at] = Math.max(strongest[r.at], r.latents[0][1]); });
  return html`<p class="note">Colour: the strongest latent on the token. Choose a token to see its latents.</p>
    <div class="tokens">${tokens.map((token, i) => html`<span key=${i} class=${i === at ? "token peak" : "token"} role="button" tabindex="0"
      style=${heat(strongest[i] / most)} onClick=${() => setAt(i)} onKeyDown=${(e) => e.key === "Enter" && setAt(i)}>${visible(token)}</span>`)}</div>
    ${at === null ? null : html`<h2>On token ${at}</h2>${here.map((r) => html`<p>${member.hook_names[r.hook]}</p><${Said} memberIdx=${run.members.indexOf(member)} row=${r} summary=${summary} />`)}`}`;
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

// Where each thought looks: the question's tokens, then what stands between them and it, coloured by weight.
function Attention({ run, asked }) {
  const [chosen, setChosen] = useState(0);
  if (!run.members[0].have.weights) return html`<${Missing} run=${run} table="weights" what="where each thought looks" />`;
  if (!asked) return html`<p class="note">The weights of this problem were not kept (n_kept of the stage attention).</p>`;
  const rows = records(run, "looks", asked.looks), n = asked.n_thoughts;
  const named = (at) => (at > n ? `cue ${at - n}` : at > 0 ? `thought ${at}` : "begin of thought");
  const ways = rows.filter((r) => r.query === rows[0].query), { layer, head } = ways[chosen];
  const called = (way) => (way.layer === null ? "mean over layers and heads" : way.head === null ? `layer ${way.layer}, mean of its heads` : `layer ${way.layer}, head ${way.head}`);
  return html`<div class="controls" role="group" aria-label="whose attention">${ways.map((way, k) => html`<button key=${k} aria-pressed=${k === chosen} onClick=${() => setChosen(k)}>${called(way)}</button>`)}</div>
    <div class="scroll"><table class="attention"><thead><tr><th>from</th><th>what it looks at</th><th>most</th></tr></thead><tbody>
    ${rows.filter((r) => r.layer === layer && r.head === head).map((r) => {
      const names = r.weights.map((_, k) => (k < asked.tokens.length ? listed(asked.tokens[k]) : named(k - asked.tokens.length)));
      const most = r.weights.map((w, k) => [w ?? 0, k]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([w]) => w >= 0.01);
      return html`<tr key=${r.query}><th>${named(r.query)}</th><td class="tokens">${names.map((name, k) => html`<span key=${k} class="token" style=${heat((r.weights[k] ?? 0) >= 0.01 ? r.weights[k] : 0)} title=${`${share(r.weights[k])} of the weight`}>${name}</span> `)}</td>
        <td>${most.map(([w, k], j) => html`${j ? ", " : ""}<span class="tokens">${names[k]}</span> <span class="note">${share(w)}</span>`)}</td></tr>`; })}</tbody></table></div>
    <p class="note">Softmax weights, which add up to 1 in each row; colour: the weight. A position looks at itself and at what stands before it. High attention is no proof of use: an edge is tested by cutting it (intervene edit=cut).</p>`;
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
  const [member, setMember] = useState(0), found = useTable(`${run.members[member].key}/summary`), summary = found instanceof Error ? null : found;
  if (!problem) return html`<p class="warning" role="alert">No problem ${String(i)} here; this explorer holds ${run.problems.length}.</p>`;
  if (!Array.isArray(shard)) return html`<${Waiting} table=${shard} what="the problem" />`;
  const page = shard.find((p) => p.problem_id === problem.id), chosen = run.members[member], read = page.members[chosen.key], rows = records(run, "strongest", read);
  const edits = records(run, "edits", page.edits), waiting = read !== null && !found;
  return html`<nav class="controls"><a href=${`#/p/${Math.max(0, i - 1)}`}>← previous</a><a href=${`#/p/${Math.min(run.problems.length - 1, i + 1)}`}>next →</a></nav>
    <h1>${visible(page.problem_id)} <span class="pill">${page.split}</span> <${Right} right=${page.right} /></h1>
    ${page.tokens ? null : html`<div class="tokens question">${visible(page.question)}</div>`}
    <ul class="facts">${page.answer ? html`<li>answer <b>${visible(page.answer)}</b></li>` : null}${page.given ? html`<li>the model says <b>${visible(page.given)}</b></li>` : null}
      ${page.cot ? html`<li>reasoning <b class="tokens">${visible(page.cot)}</b></li>` : null}</ul>
    <details><summary>labels</summary><ul class="facts">${Object.entries(page.labels).map(([k, v]) => html`<li key=${k}>${visible(k.replaceAll("_", " "))} <b>${visible(v)}</b></li>`)}</ul></details>
    <h2>${page.tokens ? "Strongest latents" : "Thought by thought"}</h2><${Members} run=${run} chosen=${member} onPick=${setMember} />
    ${waiting ? html`<${Waiting} table=${found} what="the latents" />` : null}
    ${read === null ? html`<p class="note">${chosen.label} was not read on this problem.</p>` : null}
    ${page.tokens ? read && html`<${TokenTable} run=${run} member=${chosen} rows=${rows} tokens=${page.tokens} summary=${summary} />`
      : html`<${Chain} run=${run} page=${page} member=${chosen} memberIdx=${member} rows=${rows} summary=${summary} edits=${edits} />`}
    <${Trace} rows=${records(run, "trace", page.trace)} />
    <${GraphLink} run=${run} i=${i} id=${page.problem_id} />
    ${page.tokens ? html`<p class="note">Latent and what it says, strongest first, at most six a token.</p>` : html`
      <details open=${!page.chain.length}><summary>All lens readings</summary><${Readings} run=${run} rows=${records(run, "readings", page.readings)} /></details>
      <details open=${!!page.attention || !page.chain.length}><summary>Where it looks</summary><${Attention} run=${run} asked=${page.attention} /></details>
      <details open=${!edits.some((e) => e.thought !== null)}><summary>What editing does</summary><${Edits} run=${run} rows=${edits} /></details>`}`;
}
