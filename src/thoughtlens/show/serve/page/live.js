// Asks the model: which latents fire on a text or problem, and what one of them changes.
"use strict";

async function ask(address, table) {
  const options = table ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(table) } : {};
  const response = await fetch(address, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// One question at a time: its answer, its error, or that it is waited for.
function useQuestion(address) {
  const [state, setState] = useState({});
  const put = (table) => {
    setState({ waiting: true, before: state.answer });
    ask(address, table).then((answer) => setState({ answer, table }), (error) => setState({ error: error.message }));
  };
  return [state, put];
}

const Told = ({ state, what }) =>
  state.waiting ? html`<p class="note" role="status">${what} …</p>`
    : state.error ? html`<p class="warning" role="alert">${state.error}</p>` : null;

// A latent's number, or a direction's end.
const named = (member, latent) => called(asked.members[member] || {}, latent);

function Latent({ member, latent, chosen, onPick }) {
  return html`<span><button aria-pressed=${chosen === latent} title="change this one" onClick=${() => onPick(latent)}>${named(member, latent)}</button>${" "}
    <a href=${`/#/l/${member}/${latent}`} title="its page in the explorer">↗</a></span>`;
}

function Strongest({ found, member, chosen, onPick }) {
  const unit = found.kind === "text" ? "token" : "thought";
  return html`<section><h2>Strongest latents</h2>
    <p class="note">Largest activation over ${found.n_positions} ${unit}s${found.hook_names.length > 1 ? ` at ${found.hook_names.length} hooks` : ""}; L0 ${show(found.l0)} a ${unit}.
      ${found.everywhere_known ? "" : " Latents that fire everywhere are not marked: the run has no interpret stage."}</p>
    <table><thead><tr><th>latent</th><th class="n">max</th><th>on</th><th class="n">fires on</th><th></th></tr></thead>
      <tbody>${found.latents.map((row) => html`<tr key=${row.latent}>
        <td><${Latent} member=${member} latent=${row.latent} chosen=${chosen} onPick=${onPick} /></td><td class="n">${show(row.max)}</td>
        <td class="tokens">${visible(row.position)}${found.hook_names.length > 1 ? ` · ${row.hook_name}` : ""}</td>
        <td class="n">${row.n_positions} / ${found.n_positions}</td>
        <td>${row.everywhere ? html`<span class="pill">everywhere: ${row.everywhere}</span>` : null}</td></tr>`)}</tbody></table></section>`;
}

function TokenMap({ found, hook, member, chosen, onPick }) {
  const [at, setAt] = useState(null);
  const acts = found.by_position[hook].map((pairs) => {
    const pair = chosen === null ? pairs[0] : pairs.find(([latent]) => latent === chosen);
    return pair ? pair[1] : 0;
  });
  const most = Math.max(1e-9, ...acts);
  return html`<div><p class="note">Colour: ${chosen === null ? `the strongest ${nounOf(1)} on the token` : `${noun.one === null ? "latent " : ""}${named(member, chosen)}, where it is among the strongest`}. Choose a token to see its latents.</p>
    <div class="tokens">${found.positions.map((token, i) => html`<span key=${i} class=${i === at ? "token peak" : "token"} role="button" tabindex="0"
      style=${heat(acts[i] / most)} title=${show(acts[i])} onClick=${() => setAt(i)} onKeyDown=${(e) => e.key === "Enter" && setAt(i)}>${visible(token)}</span>`)}</div>
    ${at === null ? null : html`<p>On token ${at}: ${found.by_position[hook][at].map(([latent, act], k) => html`${k ? " · " : ""}<${Latent} member=${member} latent=${latent} chosen=${chosen} onPick=${onPick} /> <span class="note">${show(act)}</span>`)}</p>`}</div>`;
}

function ThoughtMap({ found, member, chosen, onPick }) {
  const most = Math.max(1e-9, ...found.by_position.flat(2).map((pair) => pair[1]));
  return html`<table><thead><tr><th></th>${found.hook_names.map((hook) => html`<th key=${hook}>${hook}</th>`)}</tr></thead>
    <tbody>${found.positions.map((place, i) => html`<tr key=${i}><th>${place}</th>${found.hook_names.map((hook, j) => html`<td key=${hook}>
      ${found.by_position[j][i].map(([latent, act]) => html`<div style=${heat(act / most)}>
        <${Latent} member=${member} latent=${latent} chosen=${chosen} onPick=${onPick} /> ${show(act)}</div>`)}</td>`)}</tr>`)}</tbody></table>`;
}

function Fires({ found, member, chosen, onPick }) {
  return html`<section><${Strongest} found=${found} member=${member} chosen=${chosen} onPick=${onPick} />
    <h2>On every ${found.kind === "text" ? "token" : "thought"}</h2>
    ${found.kind === "text"
      ? found.hook_names.map((hook, j) => html`<div key=${hook}>${found.hook_names.length > 1 ? html`<h3>${hook}</h3>` : null}
          <${TokenMap} found=${found} hook=${j} member=${member} chosen=${chosen} onPick=${onPick} /></div>`)
      : html`<${ThoughtMap} found=${found} member=${member} chosen=${chosen} onPick=${onPick} />`}</section>`;
}

const edited = (answer, { scale, value }) => `${noun.one === null ? "latent " : ""}${named(asked.members.findIndex((m) => m.name === answer.member), answer.latent)} ${scale === undefined ? `set to ${show(value)}` : scale === 0 ? "removed" : `times ${show(scale)}`}`;

function Answers({ told, id, what }) {
  const { answer, table } = told;
  if (!answer) return null;
  const places = answer.places.length > 4 ? `${answer.places.length} places` : answer.places.join(", ");
  return html`<div id=${id}><div class="grid"><div><h3>untouched</h3><div class="tokens">${visible(answer.before.text)}</div></div>
      <div><h3>${what(answer, table)}</h3><div class="tokens">${visible(answer.after.text)}</div></div></div>
    <p class="note">${answer.changed === 0 ? `Nothing was changed${answer.latent === undefined ? "" : `: the ${nounOf(1)} does not fire there, and what is multiplied stays 0. Set it to a value instead`}. `
      : `The states moved by ${percent(answer.changed)} of their length. `}KL of the first token ${show(answer.kl)} nats. At <span title=${answer.places.join(", ")}>${places}</span>.</p></div>`;
}

function Steer({ text, member, latent, setLatent, thoughts }) {
  const [way, setWay] = useState("scale"), [amount, setAmount] = useState("0"), [where, setWhere] = useState("");
  const [told, put] = useQuestion("/api/steer");
  const number = Number(amount), usable = latent !== null && amount.trim() !== "" && Number.isFinite(number);
  const send = () => put({ text, member: member.name, latent, [way]: number, ...(where === "" ? {} : { thoughts: [Number(where)] }) });
  return html`<section><h2>Change one</h2>
    <div class="controls"><label>latent <input id="latent" size="7" inputmode="numeric" value=${latent ?? ""}
        onInput=${(e) => setLatent(/^\d+$/.test(e.target.value) ? Number(e.target.value) : null)} /></label>
      <select aria-label="how" value=${way} onChange=${(e) => setWay(e.target.value)}><option value="scale">times</option><option value="value">set to</option></select>
      <input id="amount" aria-label="amount" size="7" value=${amount} onInput=${(e) => setAmount(e.target.value)} />
      ${thoughts ? html`<select aria-label="where" value=${where} onChange=${(e) => setWhere(e.target.value)}><option value="">at every thought</option>
        ${thoughts.map((t) => html`<option key=${t} value=${t}>at thought ${t}</option>`)}</select>` : null}
      <button id="steer" disabled=${!usable || !text || told.waiting} onClick=${send}>Compare answers</button></div>
    <p class="note">Times 0 removes the latent. What the ${noun.one === null ? "SAE does" : "directions do"} not explain stays as it is.</p>
    <${Told} state=${told} what="thinking twice" /><${Answers} told=${told} id="answers" what=${edited} /></section>`;
}

// A thought of another problem in the place of the own one.
function Patch({ text, examples, n }) {
  const [other, setOther] = useState(examples[1] || ""), [thought, setThought] = useState("1");
  const [told, put] = useQuestion("/api/patch");
  return html`<section><h2>Give it another problem's thought</h2>
    <div class="controls"><input id="other" aria-label="the other problem" size="48" value=${other} onInput=${(e) => setOther(e.target.value)} />
      <select id="thought" aria-label="thought" value=${thought} onChange=${(e) => setThought(e.target.value)}>${Array.from({ length: n }, (_, i) => i + 1).map((t) => html`
        <option key=${t} value=${t}>enters thought ${t} = what thought ${t - 1} wrote</option>`)}</select>
      <button id="patch" disabled=${!text || !other || told.waiting} onClick=${() => put({ text, other, thoughts: [Number(thought)] })}>Compare answers</button></div>
    <${Told} state=${told} what="thinking three times" />
    <${Answers} told=${told} id="patched" what=${(_, table) => `with thought ${table.thoughts[0] - 1} of the other problem`} /></section>`;
}

// What each thought writes, as `think` says it; a column that no thought has is left out.
function Readings({ rows, notes }) {
  const chance = (p) => html` <span class="note">${percent(p)}</span>`;
  const words = (pairs) => pairs.map(([token, p], k) => html`${k ? " · " : ""}<span class="tokens">${listed(token)}</span>${chance(p)}`);
  const shares = (test) => ["changed", "kept", "whole_pass"].filter((name) => test[name]).map((name) => `${name} ${percent(test[name].value)} of ${test[name].n}`).join(", ");
  const explained = rows.some((row) => row.latents.some((one) => one.says));
  const columns = [
    ["tuned lens before", (row) => row.tuned && row.tuned.length && words(row.tuned.map(([, token, p]) => [token, p]))],
    ["tested", (row) => row.tested && html`<span title=${shares(row.tested)}>${row.tested.verdict}</span>`],
    [nounOf(2), (row) => explained && row.in_words.map((one) => html`<div>${one}</div>`)],
  ].filter(([, cell]) => rows.some(cell));
  return html`<section id="readings"><h2>What each thought writes</h2>
    <table><thead><tr><th>thought</th><th>reads as</th><th>or</th><th>in other problems</th>${columns.map(([name]) => html`<th key=${name}>${name}</th>`)}</tr></thead><tbody>${rows.map((row) => html`<tr key=${row.thought}><td>${row.thought}</td>
      <td><span class="tokens token" style=${heat(row.probability)}>${listed(row.reading)}</span>${chance(row.probability)}${row.read_by ? html` <span class="note">${row.read_by}</span>` : null}</td>
      <td>${words(row.others)}</td><td>${row.null === null ? "" : percent(row.null)}</td>${columns.map(([name, cell]) => html`<td key=${name}>${cell(row) || ""}</td>`)}</tr>`)}</tbody></table>
    <p class="note">The likeliest tokens if what this thought hands on were written down; it enters the next thought. Where the same thought of other problems is as sure of the token, the reading says nothing of this problem.</p>
    ${notes.map((note) => html`<p class="note" key=${note}>${note}</p>`)}</section>`;
}

function Live({ run }) {
  const [text, setText] = useState(run.examples[0] || ""), [at, setAt] = useState(0), [latent, setLatent] = useState(null), [test, setTest] = useState(false);
  const [fired, put] = useQuestion("/api/fire");
  const member = run.members[at], thoughts = run.kind === "text" ? null : member.thoughts;
  const send = () => put({ text, member: member.name, test });
  return html`<div><header><strong><a href="/">${run.name}</a></strong><span class="note">${run.model}</span><span class="spacer"></span><a href="/">Explorer</a></header>
    <main><h1>Ask the model</h1>
      <label for="text">${run.kind === "text" ? "A text" : "A problem"}</label>
      <textarea id="text" value=${text} onInput=${(e) => setText(e.target.value)}></textarea>
      <div class="controls">
        ${run.examples.length ? html`<select aria-label="example" onChange=${(e) => e.target.value && setText(e.target.value)}><option value="">from the run …</option>
          ${run.examples.map((example, i) => html`<option key=${i} value=${example}>${visible(example).slice(0, 80)}</option>`)}</select>` : null}
        ${run.members.length > 1 ? html`<select aria-label=${noun.one === null ? "SAE" : "directions"} value=${at} onChange=${(e) => { setAt(Number(e.target.value)); setLatent(null); }}>
          ${run.members.map((m, i) => html`<option key=${m.name} value=${i}>${m.name}</option>`)}</select>` : null}
        <button id="fire" disabled=${!text || fired.waiting} onClick=${send}>Which latents fire?</button>
        ${thoughts ? html`<label><input id="test" type="checkbox" checked=${test} onChange=${(e) => setTest(e.target.checked)} /> test the readings</label>` : null}</div>
      <${Told} state=${fired} what="reading" />
      ${fired.answer && fired.answer.answer !== null ? html`<p>The model answers <b class="tokens" id="answer">${visible(fired.answer.answer)}</b></p>` : null}
      ${member.can_be_changed ? html`<${Steer} text=${text} member=${member} latent=${latent} setLatent=${setLatent} thoughts=${thoughts} />`
        : html`<p class="note">No latent of this ${member.kind} can be changed here: together they do not make up the state that it reads.</p>`}
      ${run.n_thoughts ? html`<${Patch} text=${text} examples=${run.examples} n=${run.n_thoughts} />` : null}
      ${fired.answer && fired.answer.readings ? html`<${Readings} rows=${fired.answer.readings} notes=${fired.answer.reading_notes} />` : null}
      ${fired.answer ? html`<${Fires} found=${fired.answer} member=${run.members.findIndex((m) => m.name === fired.answer.member)} chosen=${latent} onPick=${setLatent} />` : null}
    </main></div>`;
}

const asked = { members: [] };
let theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
try { theme = localStorage.getItem("thoughtlens:theme") || theme; } catch { /* as the system has it */ }
document.documentElement.dataset.theme = theme;
ask("/api/run").then(
  (run) => {
    asked.members = run.members;
    if (run.members.every((m) => m.directions)) noun.one = "direction";
    render(html`<${Live} run=${run} />`, document.getElementById("app"));
  },
  (error) => { document.getElementById("app").textContent = error.message; },
);
