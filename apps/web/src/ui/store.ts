// Small things a browser remembers: theme, drafts. Storage can be off or full; what does not fit lasts as long as the page.
const memory = new Map<string, string>();  // only what the storage did not take: newer than what it may still hold

// `smaller`: what outlives the page where the whole value does not fit.
export function remember(key: string, value: string | null, smaller: string | null = null) {
  const name = `tidepool.${key}`;
  memory.delete(name);
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
    return;
  } catch {
    if (value !== null) memory.set(name, value);
  }
  try {
    // What it still holds is older, and would be taken for what was typed last after a reload.
    localStorage.removeItem(name);
    if (smaller !== null) localStorage.setItem(name, smaller);
  } catch {
    // Kept in memory.
  }
}

export function recall(key: string): string | null {
  const name = `tidepool.${key}`;
  const unsaved = memory.get(name);
  if (unsaved !== undefined) return unsaved;
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}
