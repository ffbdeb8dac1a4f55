// Models on the device over time, from the server's record: whose steps ran, how much of each model was resident, what was
// late. Zoom with the buttons or Ctrl and the wheel, move by dragging or with the arrow keys.
import { Minus, Plus } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { loadOlder, type Happening, type History, type Turn } from "../api/pool_history";
import { modelColor } from "../ui/colors";
import { formatCount, formatSeconds, grouped } from "../ui/format";
import { cx, IconButton, Table } from "../ui/kit";

export interface GanttModel { id: string; segments: number; resident: number }
const spans = [5, 15, 30, 60, 120, 300, 900, 1800, 3600, 4 * 3600, 12 * 3600];
const rowHeight = 30;

// Between two marks of the axis, at most `most` of which there are: a length that people count in.
const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 2 * 3600, 4 * 3600];
export function stepOf(spanS: number, most: number): number {
  return steps.find((step) => spanS / step <= most) ?? steps.at(-1)!;
}

// Resident segments over time: [from, share], oldest first; each holds until the next. Events say how many were resident after
// them; before the first of them it was what that one began from, as far as it tells.
export function residentSteps(model: GanttModel, happenings: Happening[]): [number, number][] {
  if (model.segments === 0) return [[0, model.resident > 0 ? 1 : 0]];
  const share = (segments: number) => Math.min(1, segments / model.segments);
  const steps: [number, number][] = [];
  for (const one of happenings) {
    if (one.model !== model.id || one.resident_segments === undefined) continue;
    // A load begins with what is resident; what it brought is told at its end.
    if (steps.length === 0) steps.push([0, one.event === "evict" ? 1 : share(one.resident_segments)]);
    if (steps.at(-1)![1] !== share(one.resident_segments)) steps.push([one.time, share(one.resident_segments)]);
  }
  return steps.length > 0 ? steps : [[0, share(model.resident)]];
}

export interface TurnSums { model: string; turns: number; busyS: number; longestS: number; steps: number; answered: number; late: number; leastSlackS: number | null }

// Of the part of each turn that lies in the window. A switch: a turn of another model than the one before it.
export function sumsOf(turns: Turn[], fromS: number, toS: number): { models: TurnSums[]; switches: number; busyS: number } {
  const models = new Map<string, TurnSums>();
  let switches = 0;
  let busyS = 0;
  let before: string | null = null;
  for (const turn of turns) {
    if (turn.to < fromS || turn.from > toS) continue;
    if (before !== null && before !== turn.model) ++switches;
    before = turn.model;
    const inside = Math.max(0, Math.min(turn.to, toS) - Math.max(turn.from, fromS));
    busyS += inside;
    const sums = models.get(turn.model) ?? { model: turn.model, turns: 0, busyS: 0, longestS: 0, steps: 0, answered: 0, late: 0, leastSlackS: null };
    models.set(turn.model, {
      ...sums, turns: sums.turns + 1, busyS: sums.busyS + inside, longestS: Math.max(sums.longestS, turn.to - turn.from), steps: sums.steps + turn.steps, answered: sums.answered + turn.answered, late: sums.late + turn.late,
      leastSlackS: turn.least_slack_s === null ? sums.leastSlackS : Math.min(sums.leastSlackS ?? Infinity, turn.least_slack_s),
    });
  }
  return { models: [...models.values()].sort((a, b) => b.busyS - a.busyS), switches, busyS };
}

export function Gantt({ models, history, dark }: { models: GanttModel[]; history: History; dark: boolean }) {
  const { t } = useTranslation();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [spanS, setSpanS] = useState(60);
  const [offsetS, setOffsetS] = useState(0);
  const drag = useRef<{ x: number; offsetS: number } | null>(null);
  const [hover, setHover] = useState("");
  const { turns, happenings } = history;
  // Models that are gone from the pool have their turns still.
  const ids = [...new Set([...models.map((model) => model.id), ...turns.map((turn) => turn.model)])];
  const height = ids.length * rowHeight + 22;
  const nowS = Date.now() / 1e3;
  const oldestS = turns[0]?.from ?? nowS;
  const endS = nowS - offsetS;
  const beginS = endS - spanS;
  const furthestS = Math.max(0, nowS - oldestS);
  const zoom = (by: number) => setSpanS((old) => spans[Math.min(spans.length - 1, Math.max(0, spans.indexOf(old) + by))]!);
  const move = (toS: number) => setOffsetS(Math.max(0, Math.min(furthestS, toS)));
  const sums = sumsOf(turns, beginS, endS);

  useEffect(() => {
    if (beginS < oldestS && history.older) void loadOlder();
  }, [beginS, oldestS, history.older]);

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const wheel = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      setSpanS((old) => spans[Math.min(spans.length - 1, Math.max(0, spans.indexOf(old) + Math.sign(event.deltaY)))]!);
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  }, []);

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const width = element.clientWidth;
    const scale = devicePixelRatio || 1;
    element.width = width * scale;
    element.height = height * scale;
    const pen = element.getContext("2d");
    if (!pen) return;
    pen.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const color = (name: string) => style.getPropertyValue(name);
    const x = (atS: number) => ((atS - beginS) / spanS) * width;
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    const stepS = stepOf(spanS, Math.max(2, Math.floor(width / 80)));
    for (let ago = Math.ceil(offsetS / stepS) * stepS - offsetS; ago <= spanS + 1e-6; ago += stepS) {
      const at = width - (ago / spanS) * width;
      pen.fillStyle = color("--line");
      pen.fillRect(Math.min(width - 1, at), 0, 1, height - 18);
      pen.fillStyle = color("--ink-faint");
      const label = ago + offsetS < 0.5 ? t("pool.now") : `−${formatSeconds(Math.round(ago + offsetS))}`;
      pen.textAlign = at > width - 20 ? "right" : at < 20 ? "left" : "center";
      pen.fillText(label, at, height - 5);
    }
    ids.forEach((id, row) => {
      const top = row * rowHeight;
      pen.fillStyle = color("--line");
      pen.fillRect(0, top + rowHeight - 1, width, 1);
      const model = models.find((one) => one.id === id);
      if (!model) return;
      // A pale band: the resident share of the weights.
      pen.fillStyle = modelColor(id, dark);
      pen.globalAlpha = 0.2;
      const shares = residentSteps(model, happenings);
      shares.forEach(([fromS, share], index) => {
        const from = Math.max(0, x(fromS));
        const to = Math.min(width, index + 1 < shares.length ? x(shares[index + 1]![0]) : x(nowS));
        if (to > from && share > 0) pen.fillRect(from, top + rowHeight - 2 - share * (rowHeight - 5), to - from, share * (rowHeight - 5));
      });
      pen.globalAlpha = 1;
    });
    const late = color("--bad");
    for (const turn of turns) {
      if (turn.to < beginS || turn.from > endS) continue;
      const row = ids.indexOf(turn.model);
      const from = Math.max(0, x(turn.from));
      const wide = Math.max(1, Math.min(width, x(turn.to)) - from);
      pen.fillStyle = modelColor(turn.model, dark);
      pen.fillRect(from, row * rowHeight + 7, wide, rowHeight - 14);
      if (turn.late > 0) {
        pen.fillStyle = late;
        pen.fillRect(from, row * rowHeight + rowHeight - 5, Math.max(2, wide), 3);
      }
    }
    for (const one of happenings) {
      const row = ids.indexOf(one.model ?? "");
      if (row < 0 || (one.event !== "load" && one.event !== "evict") || one.time < beginS || one.time > endS) continue;
      pen.fillStyle = one.event === "load" ? color("--good") : color("--warn");
      pen.fillRect(x(one.time), row * rowHeight + 2, 2, rowHeight - 5);
    }
  });

  const describe = (id: string, atS: number): string => {
    const ago = formatSeconds(Math.max(0, Math.round(nowS - atS)));
    const turn = turns.findLast((one) => one.from <= atS);
    if (turn && turn.to >= atS && turn.model === id) {
      const figures = t("pool.hoverTurn", { time: formatSeconds(turn.to - turn.from), steps: grouped(turn.steps), tokens: grouped(turn.tokens) });
      return [t("pool.hover", { model: id, ago, state: figures }), turn.least_slack_s !== null ? t("pool.hoverSlack", { slack: formatSeconds(turn.least_slack_s), late: grouped(turn.late) }) : ""].filter(Boolean).join(" · ");
    }
    const model = models.find((one) => one.id === id);
    const share = model ? residentSteps(model, happenings).findLast(([fromS]) => fromS <= atS)?.[1] ?? 0 : 0;
    return t("pool.hover", { model: id, ago, state: share > 0 ? t("place.resident") : t("pool.out") });
  };
  return (
    <div>
      <div className="mb-2 flex items-center gap-1 text-sm text-faint">
        <span className={cx("mr-auto min-w-0", hover && "truncate")}>{hover || t("pool.ganttHint", { span: formatSeconds(spanS) })}</span>
        {offsetS > 0 && <button type="button" className="rounded px-2 py-1 whitespace-nowrap text-accent hover:bg-sunken" onClick={() => setOffsetS(0)}>{t("pool.toNow")}</button>}
        <IconButton label={t("pool.zoomIn")} disabled={spanS === spans[0]} onClick={() => zoom(-1)}><Plus /></IconButton>
        <IconButton label={t("pool.zoomOut")} disabled={spanS === spans.at(-1)} onClick={() => zoom(1)}><Minus /></IconButton>
      </div>
      <div className="flex">
        <ul className="w-32 shrink-0 pr-3 text-sm sm:w-48" aria-hidden>
          {ids.map((id) => <li key={id} className="truncate leading-[30px]" style={{ height: rowHeight }} title={id}>{id}</li>)}
        </ul>
        <canvas ref={canvas} role="img" tabIndex={0} className="min-w-0 grow touch-pan-y" style={{ height }} data-turns={turns.length} data-span={spanS} data-offset={Math.round(offsetS)}
          aria-label={t("pool.gantt")} aria-description={t("pool.ganttText", { span: formatSeconds(spanS), switches: grouped(sums.switches), busy: formatSeconds(sums.busyS) })}
          onKeyDown={(event) => {
            if (event.key === "+") zoom(-1);
            if (event.key === "-") zoom(1);
            if (event.key === "ArrowLeft") move(offsetS + spanS / 8);
            if (event.key === "ArrowRight") move(offsetS - spanS / 8);
          }}
          onPointerDown={(event) => { drag.current = { x: event.clientX, offsetS }; event.currentTarget.setPointerCapture(event.pointerId); }}
          onPointerUp={() => { drag.current = null; }}
          onPointerLeave={() => setHover("")}
          onPointerMove={(event) => {
            const box = event.currentTarget.getBoundingClientRect();
            if (drag.current) return move(drag.current.offsetS + ((event.clientX - drag.current.x) / box.width) * spanS);
            const id = ids[Math.floor((event.clientY - box.top) / rowHeight)];
            setHover(id ? describe(id, beginS + ((event.clientX - box.left) / box.width) * spanS) : "");
          }} />
      </div>
      <p className="mt-2 text-sm text-soft">{t("pool.inView", { span: formatSeconds(spanS), switches: grouped(sums.switches), busy: formatSeconds(sums.busyS) })}</p>
      {sums.models.length > 0 && (
        <div className="mt-2">
          <Table label={t("pool.quanta")} rows={sums.models} keyOf={(row) => row.model} columns={[
            { head: t("models.model"), wide: true, cell: (row) => <span className="flex min-w-28 items-center gap-2"><span aria-hidden className="size-2.5 shrink-0 rounded-full" style={{ backgroundColor: modelColor(row.model, dark) }} /><span className="truncate">{row.model}</span></span> },
            { head: t("pool.turns"), right: true, cell: (row) => grouped(row.turns) },
            { head: t("pool.quantum"), right: true, cell: (row) => formatSeconds(row.busyS / row.turns) },
            { head: t("pool.longest"), right: true, hide: "sm", cell: (row) => formatSeconds(row.longestS) },
            { head: t("pool.steps"), right: true, hide: "md", cell: (row) => formatCount(row.steps) },
            { head: t("pool.leastSlack"), right: true, cell: (row) => <span className={row.leastSlackS !== null && row.leastSlackS < 0 ? "text-bad" : ""}>{row.leastSlackS === null ? "–" : formatSeconds(row.leastSlackS)}</span> },
            { head: t("pool.late"), right: true, hide: "sm", cell: (row) => (row.answered === 0 ? "–" : `${formatCount(row.late)} / ${formatCount(row.answered)}`) },
          ]} />
        </div>
      )}
    </div>
  );
}
