// Panels that several pages share.
"use strict";

const heat = (share) => {
  const strength = Math.max(0, Math.min(1, share));
  if (strength === 0) return "";
  const ink = strength > 0.55 ? "color: var(--on-heat);" : "";
  return `background: rgba(var(--heat), ${(0.12 + 0.88 * strength).toFixed(3)}); ${ink}`;
};

// Text of a token, spaces and line ends kept visible. Never HTML: the page only makes text nodes.
const visible = (token) => token.replace(/\n/g, "⏎\n").replace(/\r/g, "␍").replace(/\t/g, "⇥");

function Tokens({ tokens, acts, peak, max }) {
  return html`<div class="tokens">${tokens.map((token, i) => html`
    <span key=${i} class=${i === peak ? "token peak" : "token"} style=${heat((acts[i] || 0) / max)}
      title=${`activation ${show(acts[i])}`}>${visible(token)}</span>`)}</div>`;
}

function Strip({ hooks, thoughts, values, max, here }) {
  return html`<table class="strip"><thead><tr><th></th>${thoughts.map((t) => html`<th key=${t}>thought ${t}</th>`)}</tr></thead>
    <tbody>${hooks.map((hook, i) => html`<tr key=${hook}><th>${hook}</th>${thoughts.map((t, j) => html`
      <td key=${t} class=${here && here[0] === hook && here[1] === t ? "here" : ""} style=${heat((values[i][j] || 0) / max)}
        title=${`${hook}, thought ${t}: ${show(values[i][j])}`}>${show(values[i][j])}</td>`)}</tr>`)}</tbody></table>`;
}

// Counts of log10 values in equal bins; zeros stand apart.
function Histogram({ values, label, nZero }) {
  const logs = values.filter((v) => v > 0).map(Math.log10);
  if (!logs.length) return html`<p class="note">Nothing fires.</p>`;
  const low = Math.floor(Math.min(...logs)), high = Math.max(Math.ceil(Math.max(...logs)), low + 1);
  const n = 40, counts = new Array(n).fill(0);
  logs.forEach((v) => { counts[Math.min(n - 1, Math.floor(((v - low) / (high - low)) * n))] += 1; });
  const top = Math.max(...counts);
  return html`<figure style="margin:0"><svg viewBox="0 0 420 150" role="img" aria-label=${label}>
    ${counts.map((c, i) => html`<rect key=${i} x=${10 + i * 10} y=${120 - (110 * c) / top} width="9" height=${(110 * c) / top}
      fill="var(--accent)"><title>${c} latents</title></rect>`)}
    <text x="10" y="136">1e${low}</text><text x="410" y="136" text-anchor="end">1e${high}</text>
    <text x="210" y="148" text-anchor="middle">${label}</text></svg>
    ${nZero ? html`<p class="note">${show(nZero)} more at 0.</p>` : null}</figure>`;
}

// All latents as points; a click opens the nearest.
function Scatter({ x, y, chosen, titles, onPick }) {
  const ref = useRef(null);
  const places = useRef([]);
  useEffect(() => {
    const canvas = ref.current, ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight, pad = 42;
    canvas.width = width * ratio; canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const known = x.map((v, i) => i).filter((i) => x[i] > 0 && y[i] !== null);
    const logs = known.map((i) => Math.log10(x[i]));
    const low = Math.min(...logs, -1), high = Math.max(...logs, 0);
    const bottom = Math.min(...known.map((i) => y[i]), 0), top = Math.max(...known.map((i) => y[i]), 1e-9);
    const px = (v) => pad + ((v - low) / (high - low)) * (width - pad - 12);
    const py = (v) => height - pad + 12 - ((v - bottom) / (top - bottom)) * (height - pad - 8);
    pen.fillStyle = style.getPropertyValue("--soft");
    pen.font = "11px system-ui";
    for (let power = Math.ceil(low); power <= high; power += 1) pen.fillText(`1e${power}`, px(power) - 8, height - 14);
    [bottom, (bottom + top) / 2, top].forEach((v) => pen.fillText(show(+v.toPrecision(2)), 2, py(v) + 3));
    pen.fillText(titles[0], width / 2 - 60, height - 2);
    places.current = known.map((i) => [px(Math.log10(x[i])), py(y[i]), i]);
    pen.globalAlpha = 0.55;
    places.current.forEach(([a, b, i]) => {
      pen.fillStyle = style.getPropertyValue(chosen(i) ? "--accent" : "--line");
      pen.fillRect(a - 1.5, b - 1.5, 3, 3);
    });
  });
  const nearest = (event) => {
    const box = ref.current.getBoundingClientRect(), a = event.clientX - box.left, b = event.clientY - box.top;
    let best = null, least = 200;
    places.current.forEach(([u, v, i]) => { const d = (u - a) ** 2 + (v - b) ** 2; if (d < least) { least = d; best = i; } });
    return best;
  };
  return html`<canvas ref=${ref} tabindex="-1" role="img" aria-label=${`${titles[0]} against ${titles[1]}`}
    onClick=${(e) => { const i = nearest(e); if (i !== null) onPick(i); }}
    onMouseMove=${(e) => { const i = nearest(e); ref.current.title = i === null ? "" : `latent ${i}`; }}></canvas>
    <p class="note">Across: ${titles[0]} (log). Up: ${titles[1]}. A click opens the latent.</p>`;
}

const Waiting = ({ table, what }) =>
  table instanceof Error ? html`<p class="warning" role="alert">${table.message}</p>` : html`<p class="note">loading ${what} …</p>`;

const latentLink = (run, name, i) => {
  const member = run.members.findIndex((m) => m.member === name);
  return html`<a href=${`#/l/${member}/${i}`}>${i}</a>`;
};
