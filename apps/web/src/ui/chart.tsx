// A chart over time, drawn by uPlot on a canvas; the numbers are in the page as well, for those who do not see it.
import "uplot/dist/uPlot.min.css";
import { useEffect, useRef } from "react";
import uPlot from "uplot";
import { useTranslation } from "react-i18next";
import { formatClock } from "./format";
import { useDark } from "./theme_hook";

export interface Series { label: string; color: string; values: (number | null)[]; fill?: boolean; bars?: boolean }

// `timeFormat`: of the axis; not given: the time of day. `onPoint`: which of the times is pointed at, null: none.
interface ChartProps { times: number[]; series: Series[]; format: (value: number) => string; height?: number; label: string; timeFormat?: (unixS: number) => string; onPoint?: (index: number | null) => void }

// An axis without a moment would begin in 1970.
export default function Chart(props: ChartProps) {
  const { t } = useTranslation();
  if (props.times.length > 0) return <Plot {...props} />;
  return <p className="flex items-center justify-center text-sm text-faint" style={{ height: props.height ?? 140 }}>{t("pool.nothingYet")}</p>;
}

function Plot({ times, series, format, height = 140, label, timeFormat = formatClock, onPoint }: ChartProps) {
  const host = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const dark = useDark();
  const shape = series.map((one) => `${one.label}|${one.color}|${one.bars ?? false}`).join(",");
  const data: uPlot.AlignedData = [times, ...series.map((one) => one.values)];
  const latest = useRef({ data, format, series, timeFormat, onPoint });
  latest.current = { data, format, series, timeFormat, onPoint };
  useEffect(() => {
    const element = host.current!;
    const style = getComputedStyle(document.documentElement);
    const axis: uPlot.Axis = { stroke: style.getPropertyValue("--ink-faint"), grid: { stroke: style.getPropertyValue("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const plot = new uPlot({
      width: Math.max(200, element.clientWidth), height, legend: { show: false },
      // Half of the last mark's text.
      padding: [8, 28, 0, 0],
      cursor: { y: false, points: { size: 6 } },
      hooks: { setCursor: [(self) => latest.current.onPoint?.(self.cursor.idx ?? null)] },
      scales: {
        // At least a minute, so that a page just opened does not stretch a second over its width.
        x: { time: true, range: (): [number, number] => {
          const times = latest.current.data[0];
          const end = times.at(-1) ?? Date.now() / 1e3;
          const begin = times[0] ?? end;
          return latest.current.series.some((one) => one.bars) ? [begin - 43_200, end + 43_200] : [Math.min(begin, end - 60), end];
        } },
        y: { range: (_, __, max) => [0, Math.max(max ?? 0, 1) * 1.08] },
      },
      axes: [{ ...axis, size: 28, space: 64, values: (_: uPlot, splits: number[]) => splits.map((split) => latest.current.timeFormat(split)) },
        { ...axis, size: 64, values: (_, splits) => splits.map((value) => latest.current.format(value)) }],
      series: [{}, ...latest.current.series.map((one): uPlot.Series => ({
        label: one.label, stroke: one.color, width: one.bars ? 0 : 1.5, points: { show: false },
        ...(one.fill || one.bars ? { fill: one.bars ? one.color : `color-mix(in oklch, ${one.color} 18%, transparent)` } : {}),
        ...(one.bars ? { paths: uPlot.paths.bars!({ size: [0.7, 40] }) } : {}),
      }))],
    }, latest.current.data, element);
    chart.current = plot;
    const watch = new ResizeObserver(() => plot.setSize({ width: Math.max(200, element.clientWidth), height }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      plot.destroy();
      chart.current = null;
    };
  }, [shape, height, dark]);
  useEffect(() => { chart.current?.setData(data); });
  return <div ref={host} role="img" aria-label={label} className="w-full overflow-hidden" style={{ height }} />;
}
