// A model's colour is the same in every picture: memory, timeline, charts. Hues keep their distance from red, which means
// trouble, and from the accent.

const hues = [210, 280, 70, 330, 145, 250, 95, 305, 235, 50];
const taken = new Map<string, number>();

// FNV-1a, then the next free hue: few models never share a colour.
export function modelHue(id: string): number {
  const known = taken.get(id);
  if (known !== undefined) return hues[known % hues.length]!;
  let hash = 2166136261;
  for (let i = 0; i < id.length; ++i) hash = Math.imul(hash ^ id.charCodeAt(i), 16777619) >>> 0;
  let slot = hash % hues.length;
  const used = new Set(taken.values());
  for (let tries = 0; tries < hues.length && used.has(slot); ++tries) slot = (slot + 1) % hues.length;
  taken.set(id, slot);
  return hues[slot]!;
}

export function isDark(): boolean {
  return document.documentElement.classList.contains("dark");
}

export function modelColor(id: string, dark = isDark()): string {
  return `oklch(${dark ? 0.7 : 0.58} 0.13 ${modelHue(id)})`;
}
// KV of the same model: the same hue, lighter.
export function modelTint(id: string, dark = isDark()): string {
  return `oklch(${dark ? 0.5 : 0.78} 0.09 ${modelHue(id)})`;
}
