// Small things a browser remembers: theme, drafts. Storage can be off or full; then they last as long as the page.
const memory = new Map<string, string>();

export function remember(key: string, value: string | null) {
  const name = `tidepool.${key}`;
  if (value === null) memory.delete(name);
  else memory.set(name, value);
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // Kept in memory.
  }
}

export function recall(key: string): string | null {
  const name = `tidepool.${key}`;
  try {
    return localStorage.getItem(name) ?? memory.get(name) ?? null;
  } catch {
    return memory.get(name) ?? null;
  }
}
