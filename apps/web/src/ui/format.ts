// Numbers with units, times relative with the exact one on hover.
import i18n from "i18next";

const binary = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function formatBytes(bytes: number, digits = 3): string {
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1023.5 && unit < binary.length - 1) {
    value /= 1024;
    ++unit;
  }
  return `${unit === 0 ? Math.round(value) : significant(value, digits)} ${binary[unit]}`;
}

// 1234567 -> "1.23 M"; whole numbers below 10,000 stay as they are.
export function formatCount(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) < 10_000) return Number.isInteger(value) ? grouped(value) : significant(value, 3);
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]] as const) {
    if (Math.abs(value) >= size) return `${significant(value / size, 3)} ${unit}`;
  }
  return grouped(value);
}

export function grouped(value: number): string {
  return new Intl.NumberFormat(i18n.language || "en").format(value);
}

export function significant(value: number, digits: number): string {
  if (value === 0) return "0";
  const whole = Math.max(1, Math.floor(Math.log10(Math.abs(value))) + 1);
  return value.toFixed(Math.max(0, digits - whole));
}

export function formatPercent(share: number): string {
  const percent = share * 100;
  if (percent !== 0 && Math.abs(percent) < 0.1) return "<0.1 %";
  return `${significant(percent, percent >= 10 ? 2 : 1)} %`;
}

// A share that must not be rounded up to all: 0.9996 -> "99.9 %".
export function formatAttainment(share: number): string {
  return `${(Math.floor(share * 1000 + 1e-9) / 10).toFixed(1)} %`;
}

export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.9995) return `${significant(seconds * 1e3, size < 0.01 ? 2 : 3)} ms`;
  if (size < 99.5) return `${significant(seconds, 2)} s`;
  const whole = Math.round(size);
  const [large, small, perLarge, perSmall] = size < 3599.5 ? ["min", "s", 60, 1] as const : size < 86_400 ? ["h", "min", 3600, 60] as const : ["d", "h", 86_400, 3600] as const;
  const rest = Math.floor((whole % perLarge) / perSmall);
  return `${seconds < 0 ? "-" : ""}${Math.floor(whole / perLarge)} ${large}${rest > 0 ? ` ${rest} ${small}` : ""}`;
}

// Seconds since 1970 -> "3 minutes ago", in the page's language.
export function formatAgo(unixS: number, nowS = Date.now() / 1e3): string {
  const delta = unixS - nowS;
  const format = new Intl.RelativeTimeFormat(i18n.language || "en", { numeric: "auto" });
  const size = Math.abs(delta);
  if (size < 45) return format.format(0, "second");
  for (const [unit, seconds] of [["minute", 60], ["hour", 3600], ["day", 86400], ["month", 2629800], ["year", 31557600]] as const) {
    const next = { minute: 3600, hour: 86400, day: 2629800, month: 31557600, year: Infinity }[unit];
    if (size < next) return format.format(Math.round(delta / seconds), unit);
  }
  return "";
}

// The time of day, for an axis.
export function formatClock(unixS: number): string {
  return new Intl.DateTimeFormat(i18n.language || "en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }).format(new Date(unixS * 1e3));
}

export function formatTime(unixS: number): string {
  return new Intl.DateTimeFormat(i18n.language || "en", { dateStyle: "medium", timeStyle: "medium" }).format(new Date(unixS * 1e3));
}
