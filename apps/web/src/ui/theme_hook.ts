import { useSyncExternalStore } from "react";
import { isDark } from "./colors";

function subscribe(listener: () => void) {
  addEventListener("tidepool-theme", listener);
  return () => removeEventListener("tidepool-theme", listener);
}
export const useDark = () => useSyncExternalStore(subscribe, isDark);
