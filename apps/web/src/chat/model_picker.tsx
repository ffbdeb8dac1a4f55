// Which model answers, and where it is now: resident answers at once, warm in a moment, cold after a load from disk.
import { DropdownMenu } from "radix-ui";
import { Check, ChevronDown } from "lucide-react";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Link } from "react-router";
import { useDeployments, useModels } from "../api/queries";
import type { StoredModel } from "../api/types";
import { ModelDot } from "../overview/page";
import { formatBytes, formatCount } from "../ui/format";
import { cx } from "../ui/kit";

export type Place = "resident" | "loading" | "warm" | "cold" | "failed";
// Where its weights are: the server says it to everybody.
export function placeOf(model: Pick<StoredModel, "state" | "place">): Place {
  if (model.state === "failed" || model.state === "quarantined") return "failed";
  return model.state === "loading" ? "loading" : model.place;
}
const placeTone: Record<Place, string> = { resident: "text-good", loading: "text-warn", warm: "text-warn", cold: "text-faint", failed: "text-bad" };

export type ChatModel = StoredModel & { base?: string | undefined };
export function useChatModels() {
  const models = useModels(5_000);
  const deployments = useDeployments(5_000);
  // A deployment is in memory as its base model is.
  const named = (deployments.data ?? []).flatMap((one): ChatModel[] => {
    const model = models.data?.find((other) => other.id === one.base);
    return model && one.name ? [{ ...model, id: one.name, base: one.base, context_length: one.context_length, engine: undefined }] : [];
  });
  const data = models.data && [...named, ...models.data.filter((model) => !named.some((one) => one.id === model.id))].filter((model) => model.generates !== false);
  return { ...models, data: data as ChatModel[] | undefined };
}

// A model that is in memory, else the first: what a new conversation begins with.
export function firstModel(models: Pick<StoredModel, "id" | "state">[] | undefined, preferred: string | null): string {
  if (!models || models.length === 0) return "";
  if (preferred && models.some((model) => model.id === preferred)) return preferred;
  const real = models.filter((model) => model.id !== "scripted");
  const order = real.length > 0 ? real : models;
  return (order.find((model) => model.state === "ready") ?? order[0]!).id;
}

// What to do where there is nothing to chat with.
export function NoModels() {
  const { t } = useTranslation();
  return <>{t("chat.noModelsYet")} <Link to="/models" className="whitespace-nowrap text-accent underline">{t("overview.getModel")}</Link></>;
}

export function ModelPicker({ value, onChange, className }: { value: string; onChange: (model: string) => void; className?: string }) {
  const { t } = useTranslation();
  const { data: models } = useChatModels();
  const [filter, setFilter] = useState("");
  const shown = (models ?? []).filter((model) => (model.id ?? "").toLowerCase().includes(filter.toLowerCase()));
  const chosen = models?.find((model) => model.id === value);
  return (
    <DropdownMenu.Root modal={false} onOpenChange={() => setFilter("")}>
      <DropdownMenu.Trigger className={cx("inline-flex min-h-8 max-w-full min-w-0 items-center gap-2 rounded-md px-2 py-1 text-sm font-medium hover:bg-sunken", className)}>
        {value && <ModelDot id={value} />}
        <span className="sr-only">{t("chat.model")} </span>
        <span className="truncate">{value || t("chat.noModel")}</span>
        {chosen && <span className={cx("shrink-0 text-xs font-normal max-sm:hidden", placeTone[placeOf(chosen)])}>{t(`place.${placeOf(chosen)}`)}</span>}
        <ChevronDown className="size-4 shrink-0 text-faint" aria-hidden />
      </DropdownMenu.Trigger>
      <DropdownMenu.Portal>
        <DropdownMenu.Content align="start" sideOffset={4} collisionPadding={8} className="z-50 w-[min(26rem,calc(100vw-1rem))] rounded-lg border border-line bg-panel p-1 text-sm shadow-lg">
          {(models?.length ?? 0) > 8 && (
            <input value={filter} onChange={(event) => setFilter(event.target.value)} onKeyDown={(event) => { if (event.key.length === 1) event.stopPropagation(); }}
              placeholder={t("common.filter")} aria-label={t("common.filter")} className="mb-1 w-full rounded-md border border-line bg-panel px-2 py-1" />
          )}
          <div className="max-h-[50vh] overflow-y-auto">
            {shown.map((model) => {
              const place = placeOf(model);
              return (
                <DropdownMenu.Item key={model.id} onSelect={() => onChange(model.id ?? "")}
                  className="flex cursor-pointer items-center gap-2 rounded-md px-2 py-1.5 outline-none data-[highlighted]:bg-sunken">
                  <ModelDot id={model.id ?? ""} />
                  <span className="min-w-0 grow">
                    <span className="block truncate font-medium">{model.id}</span>
                    <span className="block truncate text-xs text-faint">{[model.base ?? "", model.parameters ? formatCount(model.parameters) : "", model.quantisation, model.bytes ? formatBytes(model.bytes) : ""].filter(Boolean).join(" · ")}</span>
                  </span>
                  <span className={cx("shrink-0 text-xs", placeTone[place])}>{t(`place.${place}`)}</span>
                  {model.id === value && <Check className="size-4 shrink-0" aria-hidden />}
                </DropdownMenu.Item>
              );
            })}
            {models?.length === 0 && <p className="px-2 py-3 text-soft">{t("chat.noModelsYet")}</p>}
          </div>
          <DropdownMenu.Separator className="my-1 h-px bg-line" />
          <DropdownMenu.Item asChild><Link to="/models" className="block rounded-md px-2 py-1.5 text-accent outline-none data-[highlighted]:bg-sunken">{t("chat.moreModels")}</Link></DropdownMenu.Item>
        </DropdownMenu.Content>
      </DropdownMenu.Portal>
    </DropdownMenu.Root>
  );
}
