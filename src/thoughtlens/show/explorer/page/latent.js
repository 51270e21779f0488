// One latent.
"use strict";

const FACTS = [["density", percent], ["n_fires", show], ["n_problems", show], ["mean_active", show], ["max_active", show]];
const METHODS = { roles: "roles and labels, by counts", token: "token lookup", token_graph: "token graph", windows: "sparse logistic over windows", rules: "rules", llm: "language model" };

// Which way a preference goes: the level is where it fires less as often as where it fires more.
const toward = (statistic, estimate) => (statistic === "correlation" ? (estimate < 0 ? "falls with" : "grows with")
  : estimate < (statistic === "lift" ? 1 : 0) ? "less at" : "more at");
const EFFECTS = { lift: (v) => `× ${show(v)}`, "rate difference": (v) => `${v > 0 ? "+" : ""}${show(100 * v)} points`, correlation: (v) => `r = ${show(v)}` };

function Associations({ rows, factor, unit, none }) {
  const chosen = rows.filter((r) => factor(r.factor)).sort((a, b) => Math.abs(b.estimate) - Math.abs(a.estimate)).slice(0, 14);
  if (!chosen.length) return html`<p class="note">${none}</p>`;
  return html`<div class="scroll"><table><thead><tr><th>${unit}</th><th class="n">effect</th><th class="n">95 % interval</th><th class="n">q</th>
    <th class="n">fires</th><th class="n">problems</th></tr></thead>
    <tbody>${chosen.map(({ factor: name, level, statistic, estimate, low, high, q_value, n_fires, n_problems }, i) => html`<tr key=${i}>
      <td><span class="note">${toward(statistic, estimate)}</span> ${name === "token" || name === "cot" ? "" : `${visible(name.replace(/^(label|number):/, ""))} = `}<span class="tokens">${listed(level)}</span></td>
      <td class="n" title=${statistic}>${own(EFFECTS, statistic)?.(estimate) ?? `${show(estimate)} (${statistic})`}</td>
      <td class="n">${statistic === "rate difference" ? `${show(100 * low)} to ${show(100 * high)}` : `${show(low)} to ${show(high)}`}</td>
      <td class="n">${show(q_value)}</td><td class="n">${show(n_fires)}</td><td class="n">${show(n_problems)}</td></tr>`)}</tbody></table></div>`;
}

function Example({ example, member, max, run }) {
  const place = example.tokens ? `position ${example.position}` : `thought ${example.thought}`;
  const known = run.problems.findIndex((p) => p.id === example.problem);
  const name = known < 0 ? visible(example.problem) : html`<a href=${`#/p/${known}`}>${visible(example.problem)}</a>`;
  const [answer, given, right] = example.answers || [];
  return html`<div class="example"><div class="head">${show(example.value)} · ${example.hook} · ${place} · ${name} · ${example.split}
      ${example.decile ? ` · decile ${example.decile}` : ""}</div>
    ${example.tokens
      ? html`<${Tokens} tokens=${example.tokens} acts=${example.acts} peak=${example.peak} max=${max} />`
      : html`<div class="tokens">${visible(example.question)}</div>
          ${answer === undefined || answer === null ? null : html`<div class="head">answer <b>${visible(answer)}</b>${given === null ? "" : html`, the model says <b>${visible(given)}</b>`}
            <${Right} right=${right} /></div>`}
          <${Strip} rows=${example.hooks} thoughts=${member.thoughts} values=${example.strip} max=${max} here=${[example.hook, example.thought]} />`}</div>`;
}

const Right = ({ right }) => (right === null || right === undefined ? null : html` <span class=${right ? "pill" : "pill bad"}>${right ? "✓ right" : "✗ wrong"}</span>`);

// What it is said to be, and how well that foretells its firing: a sentence, before any table.
function Explanations({ run, member, rows, summary, i }) {
  if (!member.have.explanations) return html`<${Missing} run=${run} table="explanations" what="explanations and their scores" />`;
  if (!rows.length) return html`<p class="note">${visible(member.unexplained)}</p>`;
  const [first, ...rest] = rows, units = run.kind === "text" ? "documents" : "problems", unknown = first.text === UNKNOWN;
  const score = (r) => `${show(r.auprc)}${r.auprc_low === null ? "" : ` [${show(r.auprc_low)}, ${show(r.auprc_high)}]`}`;
  const rival = Math.max(first.random_auprc ?? 0, first.method === "token" ? 0 : first.token_auprc ?? 0);
  const weak = first.auprc === null || (first.auprc_low ?? first.auprc) <= rival, clauses = first.clauses ? JSON.parse(first.clauses) : [], words = summary.claims[i];
  return html`<p class=${weak || unknown ? "says weak" : "says"}>${weak && !unknown ? html`<span class="pill bad">weak</span> ` : null}${unknown ? "Unknown: no claim about it holds well enough." : visible(first.text)}</p>
    ${weak && !unknown ? html`<p class="note">Its score is not above that of ${rival === first.random_auprc ? "a random latent's explanation" : "token lookup"}: do not take it for what the latent means.</p>` : null}
    ${unknown ? null : html`<p>On held-out ${units} ${first.precision === null || first.recall === null ? null : html`the latent fires on <b>${share(first.precision)}</b> of the ${run.kind === "text" ? "tokens" : "states"} where this is said, and <b>${share(first.recall)}</b> of its firings are there. `}Ranking by the claim
      scores AUPRC <b>${score(first)}</b>${first.base_rate === null ? null : `, where guessing scores ${show(first.base_rate)}`}.</p>`}
    ${clauses.length > 1 && words ? html`<ul class="facts wide">${clauses.map((c, k) => html`<li key=${k}>${visible(words[k][0])} <span class="note">${c.thoughts ? `thoughts ${c.thoughts.join(", ")}; ` : ""}precision ${share(c.precision)}, recall ${share(c.recall)}</span></li>`)}</ul>` : null}
    <p class="note">${own(METHODS, first.method) || first.method}${first.verdict ? html`: <b>${visible(first.verdict)}</b>` : null}; AUPRC <b>${score(first)}</b>, against ${show(first.random_auprc)} for a random latent of the same density${first.token_auprc === null ? "" : ` and ${show(first.token_auprc)} for token lookup`}; precision at half recall ${show(first.precision_at_half_recall)}. Held out: n = ${show(first.n)} vectors of ${show(first.n_units)}
      ${" "}${units}, split ${first.split}, at the true base rate.</p>
    ${rest.length ? html`<details><summary>${rest.length} other ${rest.length === 1 ? "explanation" : "explanations"}</summary><div class="scroll"><table><thead><tr><th>method</th><th>says</th><th class="n">AUPRC</th><th class="n">random twin</th></tr></thead>
      <tbody>${rest.map((r, k) => html`<tr key=${k}><td>${own(METHODS, r.method) || r.method}</td><td class="tokens">${visible(r.text)}</td><td class="n">${score(r)}</td><td class="n">${show(r.random_auprc)}</td></tr>`)}</tbody></table></div></details>` : null}`;
}

const EVIDENCE = [["support", "For it: fires, and the claim is true"], ["false", "Against it: fires, though the claim is not true"], ["missed", "Against it: the claim is true, yet it does not fire"]];
const NONE_OF = { support: "No such firing.", false: "It never does so there.", missed: "It misses none there." };
function Evidence({ run, member, claims, max, compact }) {
  if (!claims) return null;
  return html`<h2>For and against the claim</h2><p class="note">Held-out ${run.kind === "text" ? "documents" : "problems"}, one example from each group of them; the strongest firings first, what it misses at random.</p>
    <div class=${compact ? "" : "evidence"}>${EVIDENCE.map(([key, title]) => html`<section key=${key}><h3>${title}</h3>${claims[key].length ? claims[key].map((e, k) => html`<${Example} key=${k} example=${e} member=${member} max=${max} run=${run} />`) : html`<p class="note">${NONE_OF[key]}</p>`}</section>`)}</div>`;
}

function Effects({ run, rows, names }) {
  if (!rows.length) return html`<${Missing} run=${run} table="effects" what="what editing this latent does to the answers" names=${names} />`;
  return html`<div class="scroll"><table><thead><tr><th>edit</th><th>where</th><th class="n">dose</th><th class="n">accuracy, points</th><th class="n">95 % interval</th><th>verdict</th><th class="n">KL, nats</th><th class="n">n</th><th>split</th></tr></thead>
    <tbody>${rows.map(({ edit, where, dose, difference, low, high, verdict, kl, n, split, others }, k) => html`<tr key=${k}><td>${edit.replaceAll("_", " ")}${others.length ? html` <span class="note">with ${others.join(", ")}</span>` : null}</td>
      <td>${where}</td><td class="n">${dose === null ? "" : show(dose)}</td><td class="n">${show(100 * difference)}</td><td class="n">${show(100 * low)} to ${show(100 * high)}</td><td>${verdict}</td><td class="n">${show(kl)}</td><td class="n">${show(n)}</td><td>${split}</td></tr>`)}</tbody></table></div>
    <p class="note">Change of accuracy against the untouched run on the same problems, paired; controls are in the report.</p>`;
}

function Logits({ run, member, rows, spread }) {
  if (!member.have.lens_latents) return html`<${Missing} run=${run} table="lens_latents" what="tokens that its direction promotes" />`;
  const side = (sign) => html`<ul class="facts">${rows.filter((r) => r.sign === sign).map(({ token, logit }, k) => html`<li key=${k}><span class="tokens token">${listed(token)}</span> <b>${show(logit)}</b></li>`)}</ul>`;
  return html`<div class="note">promotes</div>${side(1)}<div class="note">suppresses</div>${side(-1)}
    ${spread ? html`<${Bars} counts=${spread.counts} low=${show(spread.low)} high=${show(spread.high)} label="what it adds to each token's logit" unit="tokens" />` : null}
    <p class="note">Logits of its decoder row through the model's final norm and unembedding; from the weights alone.</p>`;
}

function Related({ run, member, memberIdx, detail, summary }) {
  const name = (j) => html`<span class="note"> ${visible(summary.says[j] || summary.label[j] || "")}</span>`;
  return html`<h2>Nearest directions</h2><p class="note">Latents of the highest cosine between decoder rows; from the weights alone.</p>
    <ul class="facts wide">${detail.neighbours.map(({ other, cosine }) => html`<li key=${other}>${latentLink(memberIdx, other)} <b>${show(cosine)}</b>${name(other)}</li>`)}</ul>
    <h2>Fires together with</h2>${member.have.coactivation ? html`<p class="note">Vectors on which both fire, and these over the vectors on which either does (Jaccard); n = ${show(member.n)} vectors, split ${member.split}.</p>
      <ul class="facts wide">${detail.coactivation.map(({ other, n_both, jaccard }) => html`<li key=${other}>${latentLink(memberIdx, other)} <b>${show(jaccard)}</b> <span class="note">${show(n_both)} vectors</span>${name(other)}</li>`)}</ul>`
      : html`<${Missing} run=${run} table="coactivation" what="co-activating latents" />`}
    <h2>Same latent elsewhere</h2>${member.have.matches ? html`<p class="note">Best match in another SAE, by cosine of decoder rows or by correlation of activations: its score, and that of the null (random directions, or shuffled problems).</p>
      <ul class="facts wide">${detail.matches.map(({ by, sae, sae_idx, other, score, null_score }, k) => html`<li key=${k}>${visible(sae)} <span class="note">by ${by}</span> <${Match} from=${[memberIdx, summary.at]} number=${sae_idx} j=${other} /> <b>${show(score)}</b> <span class="note">null ${show(null_score)}</span></li>`)}</ul>`
      : html`<${Missing} run=${run} table="matches" what="matches in other SAEs" />`}`;
}

const Match = ({ from, number, j }) => (number === null ? String(j) : html`<a href=${`#/c/${from[0]}/${from[1]}/${number}/${j}`}>${j}</a>`);

function Notes({ id }) {
  const [value, setValue] = useState(notes.of(id));
  useEffect(() => setValue(notes.of(id)), [id]);
  const change = (key) => (e) => { const next = { ...value, [key]: e.target.value }; setValue(next); notes.set(id, next); };
  return html`<section class="notes"><h2>Your tag and note</h2><div class="controls"><input aria-label="tag" placeholder="tag" value=${value.tag} onInput=${change("tag")} />
    <button onClick=${notes.save}>Save all notes as JSON</button></div>
    <textarea aria-label="note" placeholder="note" value=${value.note} onInput=${change("note")}></textarea></section>`;
}

// A latent's page with its lists as records.
function recorded(run, page) {
  const kinds = { top_examples: `${run.kind === "text" ? "text" : "thought"}_examples`, associations: null, explanations: null, effects: null, lens_latents: null, neighbours: null, coactivation: null, matches: null };
  kinds.decile_examples = kinds.top_examples;
  const claims = page.claims && Object.fromEntries(Object.entries(page.claims).map(([key, rows]) => [key, records(run, kinds.top_examples, rows)]));
  return { ...page, claims, ...Object.fromEntries(Object.entries(kinds).map(([key, kind]) => [key, records(run, kind ?? key, page[key])])) };
}

function useLatent(run, memberIdx, i) {
  const member = run.members[memberIdx];
  const summary = useTable(member ? `${member.key}/summary` : null);
  const ready = summary && !(summary instanceof Error) && i >= 0 && i < member.d_sae;
  const shard = useTable(ready ? `${member.key}/${Math.floor(i / summary.per_shard)}` : null);
  return { member, summary, shard, detail: ready && Array.isArray(shard) ? recorded(run, shard[i % summary.per_shard]) : null };
}

function Firing({ run, member, detail }) {
  const { counts, deciles } = detail.latents;
  return html`<section><h2>Activations</h2>${counts ? html`<${Binned} counts=${counts} edges=${member.histogram_edges} label="activation where it fires (log)" />
      <p class="note">${deciles ? `Deciles of its activation: ${deciles.map(show).join(", ")}. ` : ""}n = ${show(counts.reduce((a, b) => a + b, 0))} fires, split ${member.split}.</p>`
      : html`<${Missing} run=${run} table="latents" what="histogram of activations" />`}</section>
    ${run.kind === "text" ? null : html`<section><h2>Layers × thoughts</h2>${detail.cells ? html`<${Strip} ...${detail.cells} max=${largest(detail.cells.values.flat())} format=${percent} />
      <p class="note">Share of the vectors of each layer and thought on which it fires; n ≥ ${show(detail.cells.n)} vectors per cell, split ${member.split}.</p>`
      : html`<${Missing} run=${run} table="cells" what="firing rates by layer and thought" />`}</section>`}`;
}

function Graph({ run, member, graph }) {
  if (!member.have.graphs) return html`<${Missing} run=${run} table="graphs" what="token graph" />`;
  return graph && graph.nodes.length ? html`<${TokenGraph} graph=${graph} />` : html`<p class="note">None for this latent.</p>`;
}

function Deciles({ run, member, examples, max }) {
  if (!member.have.decile_examples) return html`<${Missing} run=${run} table="decile_examples" what="examples of every decile" />`;
  const found = [...new Set(examples.map((e) => e.decile))];
  return html`<p class="note">Drawn at random among its fires of each decile of activation, 10 the strongest: what it does when it is not at its best.</p>
    ${found.map((d) => html`<details key=${d} open=${d >= 10 || d === 5}><summary>decile ${d}</summary><div class="examples">${examples.filter((e) => e.decile === d).map((e, k) => html`<${Example} key=${k} example=${e} member=${member} max=${max} run=${run} />`)}</div></details>`)}`;
}

function LatentPanel({ run, memberIdx, i, compact }) {
  const { member, summary, shard, detail } = useLatent(run, memberIdx, i);
  if (!member || !(i >= 0 && i < member.d_sae))
    return html`<p class="warning" role="alert">No latent ${String(i)} here; this run has ${run.members.map((m) => `${m.label}: 0 to ${m.d_sae - 1}`).join(", ")}.</p>`;
  if (!detail) return html`<${Waiting} table=${summary instanceof Error ? summary : shard} what=${`latent ${i}`} />`;
  const max = summary.columns.max_active[i] || 1, reason = summary.everywhere[i], text = run.kind === "text";
  const grid = compact ? "" : "grid", { associations } = detail;
  return html`<article><h1>${member.directions ? `Direction ${visible(called(member, i))}` : `Latent ${i}`} <span class="pill">${member.label}</span>
      ${reason ? html` <span class="pill bad">everywhere: ${reason}</span>` : null}
      ${summary.columns.n_fires[i] === 0 ? html` <span class="pill bad">${member.directions ? "never active" : "dead"} on these rows</span>` : null}</h1>
    <${Explanations} run=${run} member=${member} rows=${detail.explanations} summary=${summary} i=${i} />
    <${Evidence} run=${run} member=${member} claims=${detail.claims} max=${max} compact=${compact} />
    <ul class="facts">${FACTS.map(([key, format]) => html`<li key=${key} title=${run.definitions[key] || ""}>${key.replaceAll("_", " ")} <b>${format(summary.columns[key][i])}</b></li>`)}</ul>
    <p class="note">n = ${show(member.n)} vectors of ${show(member.n_problems)} ${text ? "documents" : "problems"}, split ${member.split}; hooks ${member.hook_names.join(", ")}.</p>
    <div class=${grid}><${Firing} run=${run} member=${member} detail=${detail} /></div>
    <h2>Token graph</h2><${Graph} run=${run} member=${member} graph=${detail.graphs} />
    <div class=${grid}>
      <section><h2>Labels</h2><${Associations} rows=${associations} unit="label" factor=${(f) => /^(label|number):/.test(f)} none="No label was tested for it." />
        <p class="note">Effect: ${run.definitions["rate difference"]}; rate_in: ${run.definitions.rate_in}. q: ${run.definitions.q_value}. Split ${member.split}.</p></section>
      <section><h2>${text ? "Tokens" : "Preferred layers and thoughts"}</h2>
        <${Associations} rows=${associations} unit=${text ? "token" : "place"} factor=${(f) => (text ? f === "token" : f === "thought" || f === "hook")} none="None was tested for it." />
        <p class="note">Effect: ${run.definitions[text ? "lift" : "rate difference"]}. Split ${member.split}.</p></section>
    </div>
    ${associations.some((a) => a.factor === "cot") ? html`<h2>Tokens of the reasoning</h2><${Associations} rows=${associations} unit="token" factor=${(f) => f === "cot"} none="" />
      <p class="note">Of problems whose reasoning text has the token, against the others. Split ${member.split}.</p>` : null}
    ${text ? null : html`<h2>Effect on the answer</h2><${Effects} run=${run} rows=${detail.effects} names=${{ SAE: member.member, LATENT: i }} />`}
    <h2>Output tokens</h2><${Logits} run=${run} member=${member} rows=${detail.lens_latents} spread=${detail.lens_logits} />
    <h2>Strongest examples</h2><p class="note">Largest activations, at most one a ${text ? "document" : "problem"}, split ${member.split}; colour: activation over the latent's maximum.</p>
    ${detail.top_examples.length ? null : html`<p class="note">It never fires on these rows.</p>`}
    <div class="examples">${detail.top_examples.slice(0, compact ? 6 : 20).map((e, k) => html`<${Example} key=${k} example=${e} member=${member} max=${max} run=${run} />`)}</div>
    ${compact ? null : html`<h2>Examples by decile</h2><${Deciles} run=${run} member=${member} examples=${detail.decile_examples} max=${max} />`}
    <${Related} run=${run} member=${member} memberIdx=${memberIdx} detail=${detail} summary=${{ ...summary, at: i }} />
    ${compact ? null : html`<${Notes} id=${`${member.label}/${i}`} />`}</article>`;
}

// Where all rows lie along a direction; both ends are shown beside each other.
function DirectionPage({ run, memberIdx, i }) {
  const member = run.members[memberIdx], at = Math.floor(i / 2), direction = member.directions[at], last = member.directions.length - 1;
  if (!direction) return html`<p class="warning" role="alert">No direction ${String(at)} here; ${member.label} has 0 to ${last}.</p>`;
  const { name, offset, offset_is, high, low, edges, counts } = direction;
  return html`<nav class="controls"><a href=${`#/l/${memberIdx}/${2 * Math.max(0, at - 1)}`}>← previous</a><a href=${`#/l/${memberIdx}/${2 * Math.min(last, at + 1)}`}>next →</a></nav>
    <h1>Direction ${visible(name)} <span class="pill">${member.hook_names.join(", ")}</span></h1><p class="note">${visible(member.source)}</p>
    <section><h2>Projections of all rows</h2><${Bars} counts=${counts} low=${show(edges[0])} high=${show(edges.at(-1))} label="projection on the unit vector, minus its offset" unit="rows" />
      <p class="note">Offset ${show(offset)} (${visible(offset_is)}). The high end is active above ${show(high)}, the low end below ${show(-low)}, each as strongly as the projection is long. Of rows of split train, or of all where there is none.</p></section>
    <div class="grid two"><div><${LatentPanel} run=${run} memberIdx=${memberIdx} i=${2 * at} compact /></div><div><${LatentPanel} run=${run} memberIdx=${memberIdx} i=${2 * at + 1} compact /></div></div>`;
}

function LatentPage({ run, memberIdx, i }) {
  const member = run.members[memberIdx];
  if (member?.directions && i >= 0) return html`<${DirectionPage} run=${run} memberIdx=${memberIdx} i=${i} />`;
  const last = member ? member.d_sae - 1 : 0;
  return html`<nav class="controls"><a href=${`#/l/${memberIdx}/${Math.max(0, i - 1)}`}>← previous</a>
      <a href=${`#/l/${memberIdx}/${Math.min(last, i + 1)}`}>next →</a><a href=${`#/c/${memberIdx}/${i}/${memberIdx}/${Math.min(last, i + 1)}`}>compare</a></nav>
    <${LatentPanel} run=${run} memberIdx=${memberIdx} i=${i} />`;
}
