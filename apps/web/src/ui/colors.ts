// A model's colour is the same in every picture: memory, timeline, charts. Hues keep their distance from red, which means
// trouble, and from the accent.

import { recall, remember } from "./store";

const hues = [205, 285, 75, 335, 145, 245, 110, 310];
const maxKept = 500;
const taken = new Map<string, number>(kept());

function kept(): [string, number][] {
  try {
    return Object.entries(JSON.parse(recall("colours") ?? "{}") as Record<string, number>).filter(([, slot]) => Number.isInteger(slot));
  } catch {
    return [];
  }
}

// FNV-1a, then the next free hue: few models never share a colour. Kept, so that it is the same tomorrow.
export function modelHue(id: string): number {
  const known = taken.get(id);
  if (known !== undefined) return hues[known % hues.length]!;
  let hash = 2166136261;
  for (let i = 0; i < id.length; ++i) hash = Math.imul(hash ^ id.charCodeAt(i), 16777619) >>> 0;
  let slot = hash % hues.length;
  const used = new Set(taken.values());
  for (let tries = 0; tries < hues.length && used.has(slot); ++tries) slot = (slot + 1) % hues.length;
  taken.set(id, slot);
  remember("colours", JSON.stringify(Object.fromEntries([...taken].slice(-maxKept))));
  return hues[slot]!;
}

// Of things that are shown together, such as the bars of one chart: each its own colour, and each that it has elsewhere as long
// as there are enough. A name of another kind ("key:…") does not meet a model's.
export function groupColors(ids: string[], dark = isDark()): string[] {
  const used = new Set<number>();
  return ids.map((id) => {
    let at = hues.indexOf(modelHue(id));
    for (let tries = 0; tries < hues.length && used.has(at); ++tries) at = (at + 1) % hues.length;
    used.add(at);
    return colorOf(hues[at]!, dark);
  });
}

export function isDark(): boolean {
  return document.documentElement.classList.contains("dark");
}

const colorOf = (hue: number, dark: boolean) => `oklch(${dark ? 0.7 : 0.58} 0.13 ${hue})`;
export function modelColor(id: string, dark = isDark()): string {
  return colorOf(modelHue(id), dark);
}
// KV of the same model: the same hue, lighter.
export function modelTint(id: string, dark = isDark()): string {
  return `oklch(${dark ? 0.5 : 0.78} 0.09 ${modelHue(id)})`;
}
