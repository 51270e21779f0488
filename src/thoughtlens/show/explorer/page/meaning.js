// What the variables are and where they live, and the latents grouped by what they say.
"use strict";

const FIRM = 0.8; // AUPRC from which an explanation counts as holding
const MOST = 0.9; // share of a variable's values from which the page says that latents speak for it
const KINDS = { role: 0, own: 1, label: 2, token: 3, unknown: 4, everywhere: 5, dead: 6 };
const UNKNOWN = "unknown", EVERYWHERE = "fires everywhere", DEAD = "dead on these rows";

// What a latent says: the heading of its group, its value there, and how well that is known.
function topicOf(summary, i) {
  const { columns } = summary, explained = (columns.auprc?.[i] ?? null) !== null, label = summary.label[i] ?? "";
  if (columns.n_fires[i] === 0) return { kind: "dead", topic: DEAD };
  if (summary.topic[i] !== null) return { kind: "role", topic: summary.topic[i], value: summary.value[i] ?? "" };
  if (summary.everywhere[i] !== null) return { kind: "everywhere", topic: EVERYWHERE, value: summary.everywhere[i] };
  if (explained && summary.says[i] !== UNKNOWN && columns.auprc[i] >= FIRM) return { kind: "own", topic: "in words of its own", value: summary.says[i] };
  if (label && !label.startsWith(AVOIDS)) return { kind: "label", topic: label.split(" = ")[0], value: label.split(" = ").slice(1).join(" = ") };
  if (summary.says[i] && !explained) return { kind: "token", topic: "tokens it prefers", value: summary.says[i] };
  return { kind: "unknown", topic: UNKNOWN };
}

const GROUP_NOTES = {
  role: "", own: "", token: "Tokens on which each fires more often than elsewhere; no explanation was scored.",
  label: "No explanation of these holds; each fires more often at this label than elsewhere, which is less than speaking for it.",
  unknown: "They fire, and nothing that is known of the problems or texts says when.", everywhere: "", dead: "",
};
const byValue = (a, b) => String(a.value ?? "").localeCompare(String(b.value ?? ""), "en", { numeric: true }) || a.i - b.i;

function groupsOf(summary, n) {
  const found = new Map();
  for (let i = 0; i < n; i += 1) {
    const one = { i, ...topicOf(summary, i) }, key = `${one.kind}/${one.topic}`;
    if (!found.has(key)) found.set(key, { key, kind: one.kind, topic: one.topic, members: [] });
    found.get(key).members.push(one);
  }
  const groups = [...found.values()].sort((a, b) => KINDS[a.kind] - KINDS[b.kind] || b.members.length - a.members.length);
  groups.forEach((g) => g.members.sort(byValue));
  return groups;
}

const CHIPS = 70;
function Group({ group, summary, memberIdx, go }) {
  const [all, setAll] = useState(false), firing = group.members.reduce((a, { i }) => a + summary.columns.n_fires[i], 0);
  const values = new Set(group.members.map((m) => m.value).filter(Boolean)), total = summary.columns.n_fires.reduce((a, b) => a + b, 0);
  const title = (group.kind === "label" ? `fires more at ${group.topic}` : group.topic).replaceAll("_", " "), shown = all ? group.members : group.members.slice(0, CHIPS);
  const plain = ["unknown", "dead", "everywhere"].includes(group.kind), long = group.kind === "own";
  const Head = group.kind === "label" ? "h4" : "h3";
  return html`<section class="group"><${Head}><button class="link" title="show these in the list" onClick=${() => go({ t: group.key })}>${visible(title)}</button>
      <span class="note"> ${show(group.members.length)} ${nounOf(group.members.length)}${plain || long ? "" : `, ${show(values.size)} ${values.size === 1 ? "value" : "values"}`}${total && group.kind !== "dead" ? `, ${share(firing / total)} of all firings` : ""}</span><//>
    ${GROUP_NOTES[group.kind] && group.kind !== "label" ? html`<p class="note">${GROUP_NOTES[group.kind]}</p>` : null}
    ${group.kind === "dead" ? null : html`<div class="chips">${shown.map(({ i, value }) => html`<a key=${i} class="chip" href=${`#/l/${memberIdx}/${i}`} style=${group.kind === "role" ? heat(firmness(summary.columns.auprc?.[i])) : ""}
      title=${`${nounOf(1)} ${i}${summary.columns.auprc ? `, AUPRC ${show(summary.columns.auprc[i])}` : ""}: ${visible(summary.says[i])}`}>${plain ? i : html`${visible(value)} <small>${i}</small>`}</a>`)}
      ${shown.length < group.members.length ? html`<button onClick=${() => setAll(true)}>all ${show(group.members.length)}</button>` : null}</div>`}</section>`;
}

// Colour of a claim: none where it does no better than half, full at 1.
const firmness = (auprc) => Math.max(0, 2 * ((auprc ?? 0) - 0.5));
const share = (x) => (x > 0 && x < 0.005 ? "under 1 %" : `${Math.round(100 * x)} %`);

function Groups({ run, member, memberIdx, summary, go }) {
  const groups = useMemo(() => groupsOf(summary, member.d_sae), [summary.columns, member.key]), { n_fires: fires, auprc } = summary.columns;
  const total = fires.reduce((a, b) => a + b, 0), live = fires.filter((n) => n > 0).length;
  const firm = fires.map((n, i) => (n > 0 && (auprc?.[i] ?? 0) >= FIRM ? i : -1)).filter((i) => i >= 0);
  const fired = firm.reduce((a, i) => a + fires[i], 0);
  return html`<section id="meanings"><h2>What the latents say</h2>
    ${auprc ? html`<p>Of ${show(member.d_sae)} latents ${show(live)} fire. <b>${show(firm.length)}</b> of these (${share(firm.length / Math.max(live, 1))}, with ${share(fired / Math.max(total, 1))} of all firings) carry an explanation
        that foretells on held-out ${run.kind === "text" ? "documents" : "problems"} when they fire: AUPRC of ${FIRM} or more.${auprc.some((v) => v !== null) ? " Colour: AUPRC, from .5 to 1." : ""}</p>`
      : html`<${Missing} run=${run} table="explanations" what="what each latent says, with its held-out score; below are only preferences" />`}
    ${groups.map((group, k) => html`${group.kind === "label" && groups[k - 1]?.kind !== "label" ? html`<h3>Preferences only</h3><p class="note">${GROUP_NOTES.label}</p>` : null}<${Group} key=${group.key} group=${group} summary=${summary} memberIdx=${memberIdx} go=${go} />`)}</section>`;
}

// A share with its interval.
const interval = (x) => (x.low === undefined || x.low === null ? "" : `95 % interval ${share(x.low)} to ${share(x.high)}, n = ${show(x.n)}, split ${x.split}`);
const Share = ({ number }) => (number ? html`<td class="n" title=${interval(number)}>${share(number.value)}</td>` : html`<td class="n">–</td>`);
const placed = ({ thought, hook }) => `${thought === undefined || thought === null ? "" : `thought ${thought}, `}${hook}`;
const memberOf = (run, found) => run.members.findIndex((m) => m.run === run.name && m.member === found.member);
const inWords = (condition) => condition.replace("=", " = ").replaceAll("_", " ");

function Speakers({ run, rows, memberIdx, foundAt }) {
  const sorted = rows.map((r, i) => ({ ...r, i })).sort(byValue);
  return html`<div class="chips">${sorted.map((r) => { const two = r.second !== r.latent && r.f1_of_two > r.f1;
    return html`<span key=${r.value} class="chip" style=${heat(firmness(Math.max(r.f1, r.f1_of_two)))} title=${`F1 ${show(r.f1)}${two ? `, of both ${show(r.f1_of_two)}` : ""}; precision ${show(r.precision)}, recall ${show(r.recall)}; n = ${show(r.n)}; split over ${r.n_latents} latents, ${r.n_sharing} values share it`}>
      ${visible(r.value)} ${memberIdx < 0 ? html`<small>${r.latent}${two ? ` + ${r.second}` : ""}</small>` : html`<small>${latentLink(memberIdx, r.latent)}${two ? html` + ${latentLink(memberIdx, r.second)}` : null}</small>`}
      ${Math.max(r.f1, r.f1_of_two) >= foundAt ? null : html`<small class="note"> ${show(Math.max(r.f1, r.f1_of_two))}</small>`}</span>`; })}</div>`;
}

function VariableRows({ run, found, name, values, open, onOpen }) {
  const judged = found.variables.some((v) => v.verdict), [whole, ...parts] = found.variables.filter((v) => v.name === name), memberIdx = memberOf(run, found);
  const line = (v, title) => html`<tr key=${v.condition}><th>${title}</th><td>${placed(v)}</td><td class="n">${show(v.n_values)}</td><${Share} number=${v.probe} /><${Share} number=${v.variance_share} />
    <${Share} number=${v.found} /><${Share} number=${v.found_by_two} /><${Share} number=${v.kmeans} />${judged ? html`<td class="note">${v.verdict ?? ""}</td>` : null}</tr>`;
  const speak = (v) => html`<tr><td colspan="9"><p class="note">Who speaks for which value${v.condition ? `, ${inWords(v.condition)}` : ""} (F1 beside those under ${found.found_at}):</p>
    <${Speakers} run=${run} rows=${values.filter((r) => r.variable === name && r.condition === v.condition)} memberIdx=${memberIdx} foundAt=${found.found_at} /></td></tr>`;
  return html`${line(whole, html`<button class="link" aria-expanded=${open} onClick=${onOpen}>${open ? "▾" : "▸"} ${visible(name.replaceAll("_", " "))}</button>`)}
    ${open ? html`${Array.isArray(values) ? speak(whole) : null}${parts.map((v) => html`${line(v, html`<span class="note">${visible(inWords(v.condition))}</span>`)}${Array.isArray(values) ? speak(v) : null}`)}` : null}`;
}

const PLACE_MEASURES = [["probe", "a linear probe reads it (accuracy)"], ["best_f1_of_two", "two latents tell its values (mean best F1)"], ["variance_share", "share of the variance between its values"]];
function Where({ rows, names }) {
  const [key, setKey] = useState("probe"), own = rows.filter((r) => r.condition === "" && names.includes(r.variable)), thoughts = [...new Set(own.map((r) => r.thought_idx))].sort((a, b) => a - b);
  if (thoughts.length < 2) return null;
  const best = (name, t) => own.filter((r) => r.variable === name && r.thought_idx === t).reduce((a, r) => Math.max(a ?? 0, r[key]), null);
  const table = names.map((name) => thoughts.map((t) => best(name, t)));
  return html`<h3>Where they live</h3><div class="controls"><label>colour <select aria-label="where" value=${key} onChange=${(e) => setKey(e.target.value)}>${PLACE_MEASURES.map(([k, what]) => html`<option key=${k} value=${k}>${what}</option>`)}</select></label></div>
    <${Strip} rows=${names.map((n) => n.replaceAll("_", " "))} thoughts=${thoughts} values=${table} max=${1} format=${(x) => (x === null ? "–" : share(Math.max(0, x)))} />
    <p class="note">The best layer of each thought, validation problems.</p>`;
}

function Variables({ run }) {
  const found = run.variables, [open, setOpen] = useState(null);
  const values = useTable(found && open ? "recovery/values" : null), places = useTable(found ? "recovery/places" : null);
  if (!found) return html`<section id="variables"><h2>What the ${run.kind === "text" ? "states" : "thoughts"} hold</h2><${Missing} run=${run} table="values" what="which variables are read where, and which latents speak for their values" /></section>`;
  const whole = found.variables.filter((v) => v.condition === "").sort((a, b) => (a.thought ?? 0) - (b.thought ?? 0) || b.probe.value - a.probe.value), names = whole.map((v) => v.name);
  const good = whole.filter((v) => v.found_by_two.value >= MOST), rival = whole.filter((v) => v.kmeans && v.kmeans.value >= v.found_by_two.value);
  return html`<section id="variables"><h2>What the ${run.kind === "text" ? "states" : "thoughts"} hold</h2>
    ${whole.length ? html`<p>${good.length ? html`<b>${good.map((v) => visible(v.name.replaceAll("_", " "))).join(", ")}</b>: latents of ${visible(found.member)} speak for at least ${share(MOST)} of the values.` : html`For no variable do latents of ${visible(found.member)} speak for ${share(MOST)} of the values.`}${" "}${found.conclusion ? visible(found.conclusion) : rival.length ? `K-means finds as many or more for ${show(rival.length)} of ${show(whole.length)} variables.` : whole.some((v) => v.kmeans) ? "K-means finds fewer for each." : ""}</p>
      <div class="scroll"><table class="variables"><thead><tr><th>variable</th><th>read at</th><th class="n">values</th><th class="n" title=${found.definitions.probe}>a probe reads</th><th class="n" title=${found.definitions.variance_share}>share of variance</th>
        <th class="n" title=${found.definitions.found}>one latent tells</th><th class="n" title=${found.definitions.found_by_two}>two tell</th><th class="n" title=${found.definitions.kmeans}>k-means, two</th>${whole.some((v) => v.verdict) ? html`<th title="the SAE against k-means, two latents each, on the same problems">against k-means</th>` : null}</tr></thead>
      <tbody>${whole.map((v) => html`<${VariableRows} key=${v.name} run=${run} found=${found} name=${v.name} values=${Array.isArray(values) ? records(run, "values", values) : null} open=${open === v.name} onOpen=${() => setOpen(open === v.name ? null : v.name)} />`)}</tbody></table></div>
      <p class="note">Shares of the values that are told with F1 ≥ ${found.found_at}; SAE ${visible(found.member)}, chosen on validation, counted on split ${found.split}. A name opens who speaks for which value. A value on the way and an answer are different things: the rows below a name have them apart.</p>
      ${found.numbers.length ? html`<p>Numbers with too many values to list: ${found.numbers.map((x, k) => html`${k ? "; " : ""}<b>${visible(x.name.replaceAll("_", " "))}</b>, followed best by latent ${latentLink(memberOf(run, found), x.latent)} at ${placed(x)} (held-out rank correlation ${show(x.rank_correlation.value)}, p of the search ${show(x.rank_correlation.p)})`)}.</p>` : null}
      ${Array.isArray(places) ? html`<${Where} rows=${records(run, "places", places)} names=${names} />` : null}`
      : html`<p class="note">No label column was looked for: ${found.left_out.map(visible).join("; ") || "there is none"}.</p>`}</section>`;
}
