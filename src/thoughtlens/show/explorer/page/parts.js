// What several pages share: text made safe to look at, heat, tokens, strips, what is missing.
"use strict";

// What cannot be seen, or turns or breaks a line, is shown by name. The page itself only makes text nodes.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ue000-\uf8ff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const NAMED = { "\n": "⏎\n", "\r": "␍", "\t": "⇥" };
const visible = (text) => String(text ?? "").replace(HIDDEN, (c) => NAMED[c] ?? `<U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);
// A token in a list: the spaces around it would be lost.
const listed = (token) => visible(token).replace(/\n/g, "").replace(/^ +| +$/g, (s) => "␣".repeat(s.length));

// Background of a share of the largest value, from -1 to 1: blue above 0, orange below. Ink is legible on all of it.
const heat = (share) => {
  const strength = Math.min(1, Math.abs(share || 0));
  if (strength === 0) return "";
  return `background: rgba(var(${share > 0 ? "--heat" : "--heat-below"}), ${(0.08 + 0.64 * strength).toFixed(3)});`;
};
const largest = (values) => values.reduce((a, v) => Math.max(a, Math.abs(v ?? 0)), 1e-12);
const extent = (values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);

function Tokens({ tokens, acts, peak, max }) {
  return html`<div class="tokens">${tokens.map((token, i) => html`
    <span key=${i} class=${i === peak ? "token peak" : "token"} style=${heat((acts[i] || 0) / max)}
      title=${`activation ${show(acts[i])}`}>${visible(token)}</span>`)}</div>`;
}

// Rows (layers) by thoughts; `format` writes a cell, `here` marks one.
function Strip({ rows, thoughts, values, max, here, format = show }) {
  return html`<div class="scroll"><table class="strip"><thead><tr><th>thought</th>${thoughts.map((t) => html`<th key=${t} class="n">${t}</th>`)}</tr></thead>
    <tbody>${rows.map((row, i) => html`<tr key=${row}><th>${row}</th>${thoughts.map((t, j) => html`
      <td key=${t} class=${here && here[0] === row && here[1] === t ? "here" : ""} style=${heat((values[i][j] || 0) / max)}
        title=${`${row}, thought ${t}: ${show(values[i][j])}`}>${format(values[i][j])}</td>`)}</tr>`)}</tbody></table></div>`;
}

const Waiting = ({ table, what }) =>
  table instanceof Error ? html`<p class="warning" role="alert">${table.message}</p>` : html`<p class="note">loading ${what} …</p>`;

// Rows come as lists; run.columns says once what stands where.
const records = (run, kind, rows) => (rows ?? []).map((row) => Object.fromEntries(run.columns[kind].map((name, k) => [name, row[k]])));

// What makes a table that this run does not have; names of an SAE and a latent are put in, quoted for a shell.
const quoted = (text) => (/^[\w.:@%+=,/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const filled = (command, names) => command.replace(/<(SAE|LATENT|PROBLEM)>/g, (_, name) => quoted(String(names[name])));
const Missing = ({ run, table, what, names = {} }) => html`<p class="missing">Not in this run: ${what}. To get it: <code>${filled(run.commands[table], names)}</code></p>`;

const latentLink = (memberIdx, i) => html`<a href=${`#/l/${memberIdx}/${i}`}>${i}</a>`;

function Members({ run, chosen, onPick }) {
  if (run.members.length < 2) return null;
  return html`<div class="controls" role="group" aria-label="SAE">${run.members.map((m, k) => html`
    <button key=${k} aria-pressed=${k === chosen} onClick=${() => onPick(k)}>${m.label}</button>`)}</div>`;
}
