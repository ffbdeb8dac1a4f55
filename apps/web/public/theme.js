// Before the first paint, so that a dark page never flashes white.
(() => {
  let theme = null;
  try { theme = localStorage.getItem("tidepool.theme"); } catch {}
  const dark = theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.classList.toggle("dark", dark);
})();
