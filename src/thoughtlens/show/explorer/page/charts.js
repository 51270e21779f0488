// Histograms, the scatter of all latents, and token graphs; drawn here, so that nothing needs to be fetched.
"use strict";

const LOGGED = new Set(["density", "n_fires", "n_problems", "mean_active", "max_active"]);

function Bars({ counts, low, high, label, unit }) {
  const top = Math.max(...counts, 1), width = 400 / counts.length;
  return html`<figure><svg viewBox="0 0 420 150" role="img" aria-label=${label}>
    <line x1="10" x2="410" y1="120.5" y2="120.5" stroke="var(--line)" />
    ${counts.map((c, i) => html`<rect key=${i} x=${10 + i * width} y=${120 - (110 * c) / top} width=${Math.max(width - 1, 0.5)}
      height=${(110 * c) / top} fill="var(--accent)"><title>${show(c)} ${unit}</title></rect>`)}
    <text x="10" y="136">${low}</text><text x="410" y="136" text-anchor="end">${high}</text>
    <text x="210" y="148" text-anchor="middle">${label}; the highest bar: ${show(top)} ${unit}</text></svg></figure>`;
}

// Counts of log10 values in equal bins; zeros stand apart.
function LogHistogram({ values, label, nZero }) {
  const logs = values.filter((v) => v > 0).map(Math.log10);
  if (!logs.length) return html`<p class="note">Nothing fires.</p>`;
  const [least, most] = extent(logs), low = Math.floor(least), high = Math.max(Math.ceil(most), low + 1);
  const n = 40, counts = new Array(n).fill(0);
  logs.forEach((v) => { counts[Math.min(n - 1, Math.floor(((v - low) / (high - low)) * n))] += 1; });
  return html`<${Bars} counts=${counts} low=${`1e${low}`} high=${`1e${high}`} label=${label} unit=${nounOf(2)} />
    <p class="note">n = ${show(logs.length)} latents that fire${nZero ? `; ${show(nZero)} more never do` : ""}.</p>`;
}

// Bins that interpret counted, from the first to the last that is not empty.
function Binned({ counts, edges, label }) {
  const from = counts.findIndex((c) => c > 0);
  if (from < 0) return html`<p class="note">It never fires on these rows.</p>`;
  const to = counts.length - [...counts].reverse().findIndex((c) => c > 0);
  return html`<${Bars} counts=${counts.slice(from, to)} low=${show(edges?.[from])} high=${show(edges?.[to])} label=${label} unit="fires" />`;
}

const named = (axis) => axis.replaceAll("_", " ").replace(/^n /, "number of ");

// All latents as points; a click opens the nearest.
function Scatter({ x, y, axes, chosen, marked, onPick }) {
  const ref = useRef(null);
  const places = useRef([]);
  useEffect(() => {
    const canvas = ref.current, ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight, pad = 46;
    canvas.width = width * ratio; canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement), ink = (name) => style.getPropertyValue(name);
    const logs = axes.map((a) => LOGGED.has(a));
    const scaled = [x, y].map((values, k) => values.map((v) => (v === null || v === undefined || (logs[k] && v <= 0) ? null : logs[k] ? Math.log10(v) : v)));
    const known = x.map((_, i) => i).filter((i) => scaled[0][i] !== null && scaled[1][i] !== null);
    places.current = [];
    pen.font = "11px system-ui"; pen.fillStyle = ink("--soft");
    if (!known.length) { pen.fillText(`no ${nounOf(1)} has both numbers`, pad, height / 2); return; }
    const [[left, right], [bottom, top]] = scaled.map((values) => extent(known.map((i) => values[i])));
    const px = (v) => pad + ((v - left) / (right - left || 1)) * (width - pad - 14);
    const py = (v) => height - pad + 12 - ((v - bottom) / (top - bottom || 1)) * (height - pad - 8);
    const text = (v, log) => show(+(log ? 10 ** v : v).toPrecision(2));
    pen.strokeStyle = ink("--line");
    [0, 0.25, 0.5, 0.75, 1].forEach((f) => {
      const u = left + f * (right - left), v = bottom + f * (top - bottom);
      pen.beginPath(); pen.moveTo(px(u), height - pad + 16); pen.lineTo(px(u), 4); pen.moveTo(pad - 4, py(v)); pen.lineTo(width - 10, py(v)); pen.stroke();
      pen.textAlign = f === 1 ? "right" : "center"; pen.fillText(text(u, logs[0]), px(u), height - 17);
      pen.textAlign = "right"; pen.fillText(text(v, logs[1]), pad - 8, py(v) + 4);
    });
    pen.textAlign = "center"; pen.fillText(`${named(axes[0])}${logs[0] ? " (log)" : ""} →`, width / 2, height - 3);
    places.current = known.map((i) => [px(scaled[0][i]), py(scaled[1][i]), i]);
    const last = (i) => (chosen(i) ? 1 : 0);
    [...places.current].sort((a, b) => last(a[2]) - last(b[2])).forEach(([a, b, i]) => {
      pen.globalAlpha = chosen(i) ? 0.6 : 0.35;
      pen.fillStyle = ink(!chosen(i) ? "--faint" : marked(i) ? "--warm" : "--accent");
      if (marked(i)) pen.fillRect(a - 2.5, b - 2.5, 5, 5); else { pen.beginPath(); pen.arc(a, b, 2, 0, 7); pen.fill(); }
    });
    pen.globalAlpha = 1;
  });
  const nearest = (event) => {
    const box = ref.current.getBoundingClientRect(), a = event.clientX - box.left, b = event.clientY - box.top;
    let best = null, least = 200;
    places.current.forEach(([u, v, i]) => { const d = (u - a) ** 2 + (v - b) ** 2; if (d < least && chosen(i)) { least = d; best = i; } });
    return best;
  };
  return html`<canvas ref=${ref} role="img" aria-label=${`${named(axes[0])} across, ${named(axes[1])} up`}
    onClick=${(e) => { const i = nearest(e); if (i !== null) onPick(i); }}
    onMouseMove=${(e) => { const i = nearest(e); ref.current.title = i === null ? "" : `${nounOf(1)} ${i}`; }}></canvas>`;
}

// A token graph: the token on which the latent fires at the right, what it needs before it to the left.
function TokenGraph({ graph }) {
  const depth = Math.max(...graph.nodes.map((n) => n.depth)), columns = Array.from({ length: depth + 1 }, () => []);
  graph.nodes.forEach((n) => columns[n.depth].push(n));
  const rows = Math.max(...columns.map((c) => c.length)), wide = 168, high = 32, box = 124;
  const at = new Map();
  columns.forEach((column, d) => column.forEach((n, k) => at.set(n.id, [(depth - d) * wide + 6, ((k + 0.5) * rows * high) / column.length - high / 2 + 4])));
  const most = largest(graph.nodes.map((n) => n.activation));
  const short = (token) => { const text = listed(token); return text.length > 16 ? `${text.slice(0, 15)}…` : text; };
  return html`<div class="scroll"><svg class="graph" role="img" aria-label="token graph" width=${(depth + 1) * wide} height=${rows * high + 8}
      viewBox=${`0 0 ${(depth + 1) * wide} ${rows * high + 8}`}>
    ${graph.edges.map(([a, b], k) => {
      const [[ax, ay], [bx, by]] = [at.get(a), at.get(b)].sort((u, v) => u[0] - v[0]), [least, most] = graph.gaps?.[k] ?? [0, 0];
      const bend = Math.max(14, (bx - ax - box) / 2);
      return html`<g key=${`e${k}`}><path d=${`M${ax + box} ${ay + 12} C ${ax + box + bend} ${ay + 12}, ${bx - bend} ${by + 12}, ${bx} ${by + 12}`} fill="none" stroke="var(--soft)" />
        ${most > 0 ? html`<text x=${(ax + box + bx) / 2} y=${(ay + by) / 2 + 8} text-anchor="middle">${least === most ? `+${least}` : `+${least}–${most}`}</text>` : null}</g>`;
    })}
    ${graph.nodes.map((n) => {
      const [x, y] = at.get(n.id), last = n.depth === 0, share = last ? (n.activation || 0) / most : Math.min(1, n.importance || 0);
      return html`<g key=${n.id}><rect x=${x} y=${y} width=${box} height="24" rx="4" stroke=${last ? "var(--warm)" : "var(--line)"}
          fill=${`rgba(var(${last ? "--heat-below" : "--heat"}), ${(0.08 + 0.5 * Math.max(0, share)).toFixed(2)})`} />
        <text class="word" x=${x + box / 2} y=${y + 16} text-anchor="middle">${short(n.token)}</text>
        <title>${`${listed(n.token)}: ${last ? `activation ${show(n.activation)}` : `importance ${show(n.importance)}`}`}</title></g>`;
    })}</svg></div>
    <p class="note">Right: the token on which it fires (orange: how strongly). To the left: what it needs before that (blue: importance, the share of the
      activation that is lost when the token is masked). On an edge: how many other tokens may lie between.</p>`;
}
