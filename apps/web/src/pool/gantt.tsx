// Models on the device over time: which one's step ran, how much of each was resident, what was late. Zoom with the buttons or
// Ctrl and the wheel, move by dragging.
import { Minus, Plus } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import type { PoolHappening, PoolMoment } from "../api/pool_feed";
import { modelColor } from "../ui/colors";
import { formatSeconds } from "../ui/format";
import { IconButton } from "../ui/kit";

export interface Run { model: string; fromMs: number; toMs: number }

// Stretches in which one model ran. A moment speaks for the time until the next one, at most a second: then nothing was said.
export function runsOf(moments: PoolMoment[]): Run[] {
  const runs: Run[] = [];
  for (let i = 0; i < moments.length; ++i) {
    const moment = moments[i]!;
    if (moment.running === null) continue;
    const toMs = Math.min(moments[i + 1]?.atMs ?? moment.atMs + 250, moment.atMs + 1000);
    const last = runs.at(-1);
    if (last && last.model === moment.running && moment.atMs - last.toMs < 1) last.toMs = toMs;
    else runs.push({ model: moment.running, fromMs: moment.atMs, toMs });
  }
  return runs;
}

const spans = [15, 30, 60, 120, 300, 900, 1800];
const rowHeight = 30;

export function Gantt({ models, moments, happenings, sizes, dark }: { models: string[]; moments: PoolMoment[]; happenings: PoolHappening[]; sizes: Record<string, number>; dark: boolean }) {
  const { t } = useTranslation();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [spanS, setSpanS] = useState(60);
  const [offsetS, setOffsetS] = useState(0);
  const drag = useRef<{ x: number; offsetS: number } | null>(null);
  const [hover, setHover] = useState("");
  const height = models.length * rowHeight + 22;
  const newest = moments.at(-1)?.atMs ?? Date.now();
  const oldest = moments[0]?.atMs ?? newest;
  const endMs = newest - offsetS * 1e3;
  const zoom = (by: number) => setSpanS((old) => spans[Math.min(spans.length - 1, Math.max(0, spans.indexOf(old) + by))]!);

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
    const x = (atMs: number) => width - ((endMs - atMs) / (spanS * 1e3)) * width;
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = color("--ink-faint");
    const stepS = spanS / Math.max(2, Math.floor(width / 110));
    for (let ago = 0; ago <= spanS; ago += stepS) {
      const at = width - (ago / spanS) * width;
      pen.fillStyle = color("--line");
      pen.fillRect(at, 0, 1, height - 18);
      pen.fillStyle = color("--ink-faint");
      const label = ago + offsetS < 0.5 ? t("pool.now") : `−${formatSeconds(Math.round(ago + offsetS))}`;
      pen.textAlign = at > width - 20 ? "right" : at < 20 ? "left" : "center";
      pen.fillText(label, at, height - 5);
    }
    models.forEach((model, row) => {
      const top = row * rowHeight;
      pen.fillStyle = color("--line");
      pen.fillRect(0, top + rowHeight - 1, width, 1);
      const tone = modelColor(model, dark);
      // A thin band: the resident share of the weights.
      pen.fillStyle = tone;
      pen.globalAlpha = 0.22;
      for (let i = 0; i < moments.length; ++i) {
        const moment = moments[i]!;
        const next = Math.min(moments[i + 1]?.atMs ?? moment.atMs + 250, moment.atMs + 1000);
        if (next < endMs - spanS * 1e3 || moment.atMs > endMs) continue;
        const share = sizes[model] ? (moment.resident[model] ?? 0) / sizes[model] : 0;
        if (share > 0) pen.fillRect(x(moment.atMs), top + rowHeight - 2 - share * (rowHeight - 6), Math.max(1, x(next) - x(moment.atMs) + 0.5), share * (rowHeight - 6));
      }
      pen.globalAlpha = 1;
    });
    for (const run of runsOf(moments)) {
      const row = models.indexOf(run.model);
      if (row < 0 || run.toMs < endMs - spanS * 1e3 || run.fromMs > endMs) continue;
      pen.fillStyle = modelColor(run.model, dark);
      pen.fillRect(x(run.fromMs), row * rowHeight + 6, Math.max(1.5, x(run.toMs) - x(run.fromMs)), rowHeight - 13);
    }
    for (const moment of moments) {
      for (const [model, slack] of Object.entries(moment.slackS)) {
        if (slack >= 0) continue;
        const row = models.indexOf(model);
        pen.fillStyle = color("--bad");
        if (row >= 0) pen.fillRect(x(moment.atMs), row * rowHeight + rowHeight - 5, 3, 3);
      }
    }
    for (const happening of happenings) {
      const row = models.indexOf(String(happening.data.model ?? ""));
      if (row < 0 || (happening.event !== "load" && happening.event !== "evict")) continue;
      pen.fillStyle = happening.event === "load" ? color("--good") : color("--warn");
      pen.fillRect(x(happening.atMs), row * rowHeight + 2, 2, rowHeight - 5);
    }
  });

  return (
    <div>
      <div className="mb-2 flex items-center gap-1 text-sm text-faint">
        <span className="mr-auto">{hover || t("pool.ganttHint", { span: formatSeconds(spanS) })}</span>
        {offsetS > 0 && <button type="button" className="rounded px-2 py-1 text-accent hover:bg-sunken" onClick={() => setOffsetS(0)}>{t("pool.toNow")}</button>}
        <IconButton label={t("pool.zoomIn")} disabled={spanS === spans[0]} onClick={() => zoom(-1)}><Plus /></IconButton>
        <IconButton label={t("pool.zoomOut")} disabled={spanS === spans.at(-1)} onClick={() => zoom(1)}><Minus /></IconButton>
      </div>
      <div className="flex">
        <ul className="w-32 shrink-0 pr-3 text-sm sm:w-48" aria-hidden>
          {models.map((model) => <li key={model} className="truncate leading-[30px]" style={{ height: rowHeight }} title={model}>{model}</li>)}
        </ul>
        <canvas ref={canvas} role="img" aria-label={t("pool.gantt")} tabIndex={0} className="min-w-0 grow touch-pan-y" style={{ height }}
          onKeyDown={(event) => {
            if (event.key === "+") zoom(-1);
            if (event.key === "-") zoom(1);
            if (event.key === "ArrowLeft") setOffsetS((old) => Math.min((newest - oldest) / 1e3, old + spanS / 8));
            if (event.key === "ArrowRight") setOffsetS((old) => Math.max(0, old - spanS / 8));
          }}
          onPointerDown={(event) => { drag.current = { x: event.clientX, offsetS }; event.currentTarget.setPointerCapture(event.pointerId); }}
          onPointerUp={() => { drag.current = null; }}
          onPointerLeave={() => setHover("")}
          onPointerMove={(event) => {
            const box = event.currentTarget.getBoundingClientRect();
            if (drag.current) {
              const movedS = ((event.clientX - drag.current.x) / box.width) * spanS;
              setOffsetS(Math.max(0, Math.min((newest - oldest) / 1e3, drag.current.offsetS + movedS)));
              return;
            }
            const model = models[Math.floor((event.clientY - box.top) / rowHeight)];
            const atMs = endMs - (1 - (event.clientX - box.left) / box.width) * spanS * 1e3;
            const moment = moments.findLast((one) => one.atMs <= atMs);
            setHover(model && moment ? t("pool.hover", { model, state: moment.running === model ? t("pool.ran") : moment.loading.includes(model) ? t("place.loading") : (moment.resident[model] ?? 0) > 0 ? t("place.resident") : t("pool.out"), ago: formatSeconds(Math.max(0, Math.round((newest - atMs) / 1e3))) }) : "");
          }} />
      </div>
    </div>
  );
}
