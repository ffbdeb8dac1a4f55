import i18n from "i18next";
import { initReactI18next } from "react-i18next";
import { recall, remember } from "../ui/store";
import { en } from "./en";
import { addServerTexts } from "./server_texts";

export const languages = { en: "English", "zh-CN": "简体中文" } as const;
export type Language = keyof typeof languages;

function preferred(): Language {
  const kept = recall("language");
  if (kept === "en" || kept === "zh-CN") return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
}

// English is in the first load; the other language comes when it is asked for.
export async function setLanguage(language: Language, keep = true) {
  if (language === "zh-CN" && !i18n.hasResourceBundle("zh-CN", "translation")) {
    const [{ zhCN }, { serverZhCN }] = await Promise.all([import("./zh-CN"), import("./server_zh-CN")]);
    addServerTexts("zh-CN", serverZhCN);
    i18n.addResourceBundle("zh-CN", "translation", zhCN);
  }
  await i18n.changeLanguage(language);
  document.documentElement.lang = language;
  if (keep) remember("language", language);
}

export async function startI18n() {
  await i18n.use(initReactI18next).init({
    lng: "en", fallbackLng: "en", resources: { en: { translation: en } }, interpolation: { escapeValue: false }, returnNull: false, showSupportNotice: false,
  });
  const language = preferred();
  if (language !== "en") await setLanguage(language, false);
}

declare module "i18next" {
  interface CustomTypeOptions {
    defaultNS: "translation";
    resources: { translation: typeof en };
  }
}
