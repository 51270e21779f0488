// What makes what: a graph's columns from left to right (words, thoughts, answer), hooks from below, routes by colour.
"use strict";

const NODE = { wide: 126, high: 48, line: 22, gap: 8, word: 40, row: 46, left: 84, fits: 1500 };
const ANSWERS = -2;
const PLAIN_ROUTES = { state: "var(--ink)", within: "var(--soft)" };
const routeName = (route) => own({ state: "state", within: "within a thought" }, route) ?? (route.endsWith(":kv") ? `keys and values, ${route.slice(0, -3)}` : route);
const colours = (edges) => Object.fromEntries([...new Set(edges.map((e) => e.route))].sort().map((route, k, all) => [route, own(PLAIN_ROUTES, route) ?? `var(--route-${all.slice(0, k).filter((r) => !own(PLAIN_ROUTES, r)).length % 6})`]));
// At most two lines, broken between words.
function twoLines(text) {
  const [first, ...rest] = text.split(" ").reduce((lines, word) => (lines.length && `${lines.at(-1)} ${word}`.length <= NODE.line ? [...lines.slice(0, -1), `${lines.at(-1)} ${word}`] : [...lines, word]), []);
  const more = rest.join(" ");
  return [first ?? "", more].map((line) => (line.length > NODE.line ? `${line.slice(0, NODE.line - 3)}…` : line));
}
const plainWords = (node) => (node.says ?? "").split("; or ")[0].replace(/ \([^()]*\)/g, "");
const nodeName = (node) => (node.kind === "latent" ? `latent ${node.latent}` : node.kind === "error" ? "error of the SAE" : listed(node.text));
const nodePlace = (graph, node) => [node.hook_name, graph.columns[node.column]].filter((x) => x && x !== node.text).join(", ");

// Places in pixels: only columns in which something stands, and in each row as high as its highest stack.
function laidOut(graph, nodes) {
  const stacks = new Map(), level = (n) => n.row ?? (n.kind === "answer" ? ANSWERS : -1), small = (n) => n.row === null || n.row === undefined;
  const size = (n) => (small(n) ? Math.max(NODE.word, 8 * listed(n.text).length + 16) : NODE.wide);
  nodes.forEach((n) => { const key = `${n.column} ${level(n)}`; stacks.set(key, [...(stacks.get(key) ?? []), n]); });
  const wide = new Map();
  nodes.forEach((n) => { wide.set(n.column, Math.max(wide.get(n.column) ?? 0, size(n))); });
  let x = NODE.left;
  const left = new Map();
  [...wide.keys()].sort((a, b) => a - b).forEach((c) => { left.set(c, x); x += wide.get(c) + (wide.get(c) < NODE.wide ? 12 : 28); });
  const levels = [...new Set(nodes.map(level))].filter((l) => l !== ANSWERS).sort((a, b) => b - a), top = new Map();
  let y = graph.rows.length > 1 ? 30 : 84;
  levels.forEach((l) => {
    const most = Math.max(...[...stacks].filter(([key]) => Number(key.split(" ")[1]) === l).map(([, own]) => own.length));
    top.set(l, [y, most]); y += most * (NODE.high + NODE.gap) + (l === -1 ? 4 : NODE.row);
  });
  const answers = Math.max(0, ...[...stacks].filter(([key]) => key.endsWith(` ${ANSWERS}`)).map(([, own]) => own.length));
  y = Math.max(y, answers * (NODE.high + NODE.gap) + 34);
  top.set(ANSWERS, [graph.rows.length > 1 ? 30 + (y - 34 - answers * (NODE.high + NODE.gap)) / 2 : 84, answers]);
  const at = new Map();
  stacks.forEach((stack, key) => {
    const [c, l] = key.split(" ").map(Number), [from, most] = top.get(l);
    stack.forEach((n, k) => at.set(n.id, { x: left.get(c) + (wide.get(c) - size(n)) / 2, y: from + (most - stack.length + k) * (NODE.high + NODE.gap), w: size(n), h: NODE.high }));
  });
  return { at, width: x + 8, height: y, rows: graph.rows.map((name, r) => [name, top.get(r)]).filter(([, place]) => place) };
}

// Routes between two nodes lie beside each other.
function path(a, b, off) {
  if (Math.abs(a.x + a.w / 2 - b.x - b.w / 2) < NODE.wide / 2) {
    const up = a.y > b.y, x = a.x + a.w / 2, to = b.x + b.w / 2, y = up ? a.y : a.y + a.h, end = up ? b.y + b.h + 5 : b.y - 5;
    return `M${x} ${y} C ${x + 18} ${(y + end) / 2}, ${to + 18} ${(y + end) / 2}, ${to} ${end}`;
  }
  if (Math.abs(a.y - b.y) < 4 && b.x - a.x - a.w > 60) {
    const x = a.x + a.w / 2 + off, to = b.x + b.w / 2 + off, lift = Math.min(90, 24 + (to - x) / 9);
    return `M${x} ${a.y} C ${x} ${a.y - lift}, ${to} ${b.y - lift}, ${to} ${b.y - 5}`;
  }
  const x = a.x + a.w, y = a.y + a.h / 2 + off, to = b.x - 6, end = b.y + b.h / 2 + off, bend = Math.max(28, (to - x) / 2.4);
  return `M${x} ${y} C ${x + bend} ${y}, ${to - bend} ${end}, ${to} ${end}`;
}

const measured = (e) => `effect ${show(e.effect)}${e.low === null || e.low === undefined ? "" : ` (${show(e.low)} to ${show(e.high)}, n = ${show(e.n)})`}, random directions ${show(e.at_random)}${e.spread === null || e.spread === undefined ? "" : ` ± ${show(e.spread)}`}, by the slope ${show(e.attribution)}, q ${show(e.q)}, flow ${show(e.flow)}`;

function EdgeList({ title, edges, nodes, go }) {
  if (!edges.length) return null;
  const name = (id) => html`<button class="link" onClick=${() => go(id)}>${visible(nodeName(nodes.get(id)))}</button> <span class="note">${visible(plainWords(nodes.get(id)))}</span>`;
  return html`<h3>${title}</h3><div class="scroll"><table class="places"><thead><tr><th>from</th><th>to</th><th>route</th><th class="n">effect</th><th class="n">range</th><th class="n">random</th><th class="n">by the slope</th><th class="n">q</th><th class="n">flow</th></tr></thead>
    <tbody>${edges.map((e, k) => html`<tr key=${k}><td>${name(e.source)}</td><td>${name(e.target)}</td><td>${visible(routeName(e.route))}${e.variable ? html` <span class="note">${visible(e.variable)}</span>` : null}</td><td class="n">${show(e.effect)}</td>
      <td class="n">${e.low === null || e.low === undefined ? "–" : `${show(e.low)} to ${show(e.high)}`}</td><td class="n">${show(e.at_random)}</td><td class="n">${show(e.attribution)}</td><td class="n">${show(e.q)}</td><td class="n">${show(e.flow)}</td></tr>`)}</tbody></table></div>`;
}

function GraphMap({ run, graph }) {
  const [carried, setCarried] = useState(""), variables = [...new Set(graph.edges.map((e) => e.variable).filter(Boolean))];
  const all = useMemo(() => graph.edges.filter((e) => e.shown).sort((a, b) => (b.flow ?? 0) - (a.flow ?? 0)), [graph]);
  const edges = carried ? all.filter((e) => e.variable === carried) : all;
  const nodes = useMemo(() => new Map(graph.nodes.map((n) => [n.id, n])), [graph]);
  const drawn = useMemo(() => graph.nodes.filter((n) => n.kind === "answer" || all.some((e) => e.source === n.id || e.target === n.id)), [graph]);
  const { at, width, height, rows } = useMemo(() => laidOut(graph, drawn), [graph]);
  const [kept, setKept] = useState(all.length), [chosen, setChosen] = useState(null), [told, setTold] = useState("");
  const ref = useRef(null), colour = colours(all);
  const visibleEdges = edges.slice(0, kept), linked = new Set(visibleEdges.flatMap((e) => [e.source, e.target])), most = largest(all.map((e) => e.flow));
  const touches = (e) => chosen === null || e.source === chosen || e.target === chosen;
  const go = (id) => { setChosen(id); ref.current?.querySelector(`[data-node="${CSS.escape(id)}"]`)?.focus(); };
  const page = (n) => { const m = run.members.findIndex((one) => one.member === n.member && one.label === n.member); return n.kind === "latent" && m >= 0 ? `#/l/${m}/${n.latent}` : null; };
  const open = (n) => { const to = page(n); if (to) location.hash = to; };
  const beside = (id, key) => {
    const n = nodes.get(id), order = (x) => at.get(x.id).y;
    if (key === "ArrowLeft") return visibleEdges.find((e) => e.target === id)?.source;
    if (key === "ArrowRight") return visibleEdges.find((e) => e.source === id)?.target;
    const column = drawn.filter((x) => x.column === n.column).sort((a, b) => order(a) - order(b)), k = column.findIndex((x) => x.id === id);
    return column[k + (key === "ArrowDown" ? 1 : -1)]?.id;
  };
  const onKey = (event, n) => {
    if (event.key === "Enter") open(n);
    else if (/^Arrow/.test(event.key)) { const next = beside(n.id, event.key); if (next) go(next); }
    else if (event.key === "Escape") setChosen(null);
    else return;
    event.preventDefault(); event.stopPropagation();
  };
  const aboutNode = (n) => `${nodeName(n)}${nodePlace(graph, n) ? ` at ${nodePlace(graph, n)}` : ""}${n.says ? `: ${n.says}` : ""}${n.activation === null || n.activation === undefined ? "" : `; activation ${show(n.activation)}`}${n.share === null || n.share === undefined ? "" : `; share of the answer's change ${show(n.share)}`}`;
  const aboutEdge = (e) => `${nodeName(nodes.get(e.source))} → ${nodeName(nodes.get(e.target))} by ${routeName(e.route)}${e.variable ? ` (${e.variable})` : ""}: ${measured(e)}`;
  return html`<div class="controls">${variables.length > 1 ? html`<label>what is carried <select aria-label="what is carried" value=${carried} onChange=${(e) => setCarried(e.target.value)}><option value="">everything</option>${variables.map((v) => html`<option key=${v} value=${v}>${visible(v)}</option>`)}</select></label>` : null}<label>edges through which most flows <input type="range" id="prune" aria-label="edges shown" min="1" max=${Math.max(1, edges.length)} value=${kept} onInput=${(e) => setKept(Number(e.target.value))} /></label>
      <span class="note" role="status">${show(Math.min(kept, edges.length))} of ${show(edges.length)} edges</span>
      ${Object.entries(colour).map(([route, c]) => html`<span key=${route} class="note"><svg class="key" width="22" height="10" aria-hidden="true"><line x1="0" y1="5" x2="22" y2="5" stroke=${c} stroke-width="3" /></svg> ${visible(routeName(route))}</span>`)}</div>
    <div class="scroll"><svg ref=${ref} class="graph circuit" role="group" aria-label="graph" width=${width} height=${height} style=${width < NODE.fits ? "max-width: 100%; height: auto" : ""} viewBox=${`0 0 ${width} ${height}`}>
      <defs>${Object.values(colour).map((c, k) => html`<marker key=${k} id=${`tip-${k}`} viewBox="0 0 8 8" refX="5" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill=${c} /></marker>`)}</defs>
      ${rows.map(([name, [y, n]]) => html`<text key=${name} x="4" y=${y + (n * (NODE.high + NODE.gap)) / 2}>${visible(name)}</text>`)}
      ${[...new Set(drawn.map((n) => n.column))].map((c) => { const stands = drawn.filter((n) => n.column === c && n.row !== null && n.row !== undefined); if (!stands.length || graph.rows.length < 2) return null; const place = at.get(stands[0].id); return html`<text key=${c} x=${place.x + place.w / 2} y="16" text-anchor="middle">${visible(listed(graph.columns[c]))}</text>`; })}
      ${visibleEdges.map((e, k) => { const d = path(at.get(e.source), at.get(e.target), 6 * (Object.keys(colour).indexOf(e.route) - (Object.keys(colour).length - 1) / 2)), c = colour[e.route];
        return html`<g key=${k} class="edge" opacity=${touches(e) ? 1 : 0.12} onMouseEnter=${() => setTold(aboutEdge(e))}><path d=${d} fill="none" stroke=${c} stroke-width=${0.8 + (3.4 * Math.abs(e.flow ?? 0)) / most} stroke-dasharray=${e.effect < 0 ? "5 3" : ""} marker-end=${`url(#tip-${Object.keys(colour).indexOf(e.route)})`} />
          <path d=${d} fill="none" stroke="transparent" stroke-width="11" pointer-events="stroke" /><title>${visible(aboutEdge(e))}</title></g>`; })}
      ${drawn.map((n) => { const { x, y, w, h } = at.get(n.id), faint = !linked.has(n.id) && n.kind !== "answer", short = n.kind === "token" || n.kind === "answer";
        return html`<g key=${n.id} data-node=${n.id} class=${`node ${n.kind}`} tabindex="0" role=${page(n) ? "link" : "img"} aria-label=${visible(aboutNode(n))} opacity=${faint ? 0.35 : 1}
            onFocus=${() => { setChosen(n.id); setTold(aboutNode(n)); }} onBlur=${() => setChosen(null)} onMouseEnter=${() => { setChosen(n.id); setTold(aboutNode(n)); }} onMouseLeave=${() => setChosen(null)} onClick=${() => open(n)} onKeyDown=${(event) => onKey(event, n)}>
          <rect x=${x} y=${y} width=${w} height=${h} rx="5" />
          ${short ? html`<text class="word" x=${x + w / 2} y=${y + h / 2 + 4} text-anchor="middle">${listed(n.text)}</text>`
            : html`<text class="word" x=${x + 7} y=${y + 14}>${n.kind === "latent" ? n.latent : n.kind === "error" ? "error" : visible(n.text)}${n.activation === null || n.activation === undefined ? "" : html`<tspan class="act" dx="6">${show(n.activation)}</tspan>`}</text>
              ${twoLines(visible(plainWords(n))).map((line, k) => html`<text key=${k} x=${x + 7} y=${y + 28 + 13 * k}>${line}</text>`)}`}
          <title>${visible(aboutNode(n))}</title></g>`; })}
    </svg></div>
    <p class="note told" role="status">${told ? visible(told) : "Point at a node or an edge to see what was measured. Keys: Tab from node to node, ← what makes it most, → what it makes most, ↑ ↓ in its column, Enter its page."}</p>
    <${EdgeList} title=${kept < edges.length ? `The ${show(kept)} edges drawn` : "Edges"} edges=${visibleEdges} nodes=${nodes} go=${go} />`;
}

function GraphPage({ run, i }) {
  const about = run.graphs[i], graph = useTable(about ? `graphs/${i}` : null);
  if (!about) return html`<p class="warning" role="alert">No graph ${String(i)} here; this explorer holds ${run.graphs.length}.</p>`;
  if (!graph || graph instanceof Error) return html`<${Waiting} table=${graph} what="the graph" />`;
  const told = [["edges tried", show(graph.n_tried)], ["shown", show(graph.edges.length)], ["rank correlation of slope and effect", show(graph.rank_correlation)], ["slope of the effect against what the gradient says", show(graph.slope)],
    ["of the answer's change, shown nodes carry", percent(graph.share_shown)], [run.kind === "text" ? "errors" : "errors and places without an SAE", percent(graph.share_error)]].filter(([, value]) => value !== "–");
  return html`<h1>${graph.name === "class" ? "Which thought makes which" : "Which latent makes which"}</h1>
    <p class="tokens question">${visible(graph.text)}</p>
    <ul class="facts">${graph.answer ? html`<li>answer <b>${visible(graph.answer)}</b></li>` : null}${about.problem === null ? null : html`<li><a href=${`#/p/${about.problem}`}>the problem's page</a></li>`}</ul>
    ${graph.warnings.map((w, k) => html`<p key=${k} class="warning">${visible(w)}</p>`)}
    ${graph.edges.length ? html`<${GraphMap} key=${i} run=${run} graph=${graph} />` : html`<p class="note">Of ${show(graph.n_tried)} edges that were tried none stands out: nothing is drawn.</p>`}
    <h2>How far to trust it</h2><ul class="facts">${told.map(([name, value]) => html`<li key=${name}>${name} <b>${value}</b></li>`)}</ul>
    ${graph.cuts.length ? html`<table class="places"><thead><tr><th>test</th><th>what is done</th><th class="n">${graph.name === "class" ? "right answers" : run.kind === "text" ? "probability left" : "the answer stays"}</th></tr></thead><tbody>${graph.cuts.map((c) => html`<tr key=${c.name}><td>${visible(c.name)}</td><td>${visible(c.about)}</td><td class="n">${percent(c.value)}</td></tr>`)}</tbody></table>` : null}
    <details><summary>What the numbers of this graph mean</summary><dl>${Object.entries(graph.definitions).map(([name, text]) => html`<dt key=${name}>${visible(name.replaceAll("_", " "))}</dt><dd>${visible(text)}</dd>`)}</dl></details>`;
}

// The list of graphs on the first page; one of a single problem also stands on the problem's page.
function Graphs({ run }) {
  if (run.kind === "text" && !run.graphs.length) return null;
  return html`<h2 id="graphs">What makes what</h2>${run.graphs.length ? html`<table id="graph-list"><tbody>${run.graphs.map((g, k) => html`<tr key=${k}><td><a href=${`#/g/${k}`}>${visible(g.name)}</a></td><td>${visible(g.text)}</td><td>${visible(g.answer)}</td><td class="n">${show(g.n_shown)} of ${show(g.n_tried)} edges</td></tr>`)}</tbody></table>` : null}
    ${run.kind !== "text" && !run.graphs.some((g) => g.name === "class") ? html`<${Missing} run=${run} table="circuit" what="which thought makes which" />` : null}`;
}

function GraphLink({ run, i, id }) {
  const k = run.graphs.findIndex((g) => g.problem === i);
  if (k >= 0) return html`<p><a href=${`#/g/${k}`}>Which latent makes which</a></p>`;
  return run.kind === "text" ? null : html`<${Missing} run=${run} table="graph" what="which latent makes which in this problem" names=${{ PROBLEM: id }} />`;
}
