import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Button, Dialog, Field, Input, TextArea } from "../ui/kit";
import type { SamplingSettings } from "./types";

type NumberName = Exclude<keyof SamplingSettings, "stop">;
export const samplingFields: { name: NumberName; min: number; max: number; step: number }[] = [
  { name: "temperature", min: 0, max: 2, step: 0.05 },
  { name: "top_p", min: 0.01, max: 1, step: 0.01 },
  { name: "top_k", min: 0, max: 1000, step: 1 },
  { name: "min_p", min: 0, max: 1, step: 0.01 },
  { name: "repetition_penalty", min: 0.1, max: 10, step: 0.05 },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1 },
  { name: "max_tokens", min: 1, max: 1_000_000, step: 1 },
  { name: "thinking_budget", min: 0, max: 1_000_000, step: 1 },
  { name: "seed", min: 0, max: 2 ** 31 - 1, step: 1 },
];

// An empty field is the model's own default.
export function SamplingForm({ value, onChange }: { value: SamplingSettings; onChange: (value: SamplingSettings) => void }) {
  const { t } = useTranslation();
  return (
    <div className="grid grid-cols-2 gap-3">
      {samplingFields.map(({ name, min, max, step }) => (
        <Field key={name} label={t(`sampling.${name}`)} help={t(`samplingHelp.${name}`)}>
          {(id, describedBy) => (
            <Input id={id} aria-describedby={describedBy} type="number" min={min} max={max} step={step} placeholder={t("sampling.default")} value={value[name] ?? ""}
              onChange={(event) => {
                const next = { ...value };
                if (event.target.value === "" || Number.isNaN(event.target.valueAsNumber)) delete next[name];
                else next[name] = event.target.valueAsNumber;
                onChange(next);
              }} />
          )}
        </Field>
      ))}
    </div>
  );
}

export function ChatSettings({ open, system, sampling, onSave, onClose }: {
  open: boolean; system: string; sampling: SamplingSettings; onSave: (system: string, sampling: SamplingSettings) => void; onClose: () => void;
}) {
  const { t } = useTranslation();
  return (
    <Dialog open={open} onClose={onClose} title={t("chat.settings")} wide>
      <Form system={system} sampling={sampling} onClose={onClose} onSave={onSave} />
    </Dialog>
  );
}

function Form({ system, sampling, onSave, onClose }: { system: string; sampling: SamplingSettings; onSave: (system: string, sampling: SamplingSettings) => void; onClose: () => void }) {
  const { t } = useTranslation();
  const [text, setText] = useState(system);
  const [values, setValues] = useState(sampling);
  const [stop, setStop] = useState([sampling.stop ?? []].flat().join("\n"));
  return (
    <form className="space-y-4" onSubmit={(event) => {
      event.preventDefault();
      const list = stop.split("\n").filter((line) => line !== "");
      const next = { ...values };
      if (list.length > 0) next.stop = list;
      else delete next.stop;
      onSave(text, next);
      onClose();
    }}>
      <Field label={t("chat.systemPrompt")} help={t("chat.systemHelp")}>{(id, note) => <TextArea id={id} aria-describedby={note} rows={4} value={text} onChange={(event) => setText(event.target.value)} />}</Field>
      <SamplingForm value={values} onChange={setValues} />
      <Field label={t("sampling.stop")} help={t("samplingHelp.stop")}>{(id, note) => <TextArea id={id} aria-describedby={note} rows={2} className="font-mono" value={stop} onChange={(event) => setStop(event.target.value)} />}</Field>
      <p className="text-xs text-faint">{t("chat.privacy")}</p>
      <div className="flex justify-end gap-2">
        <Button onClick={onClose}>{t("common.cancel")}</Button>
        <Button kind="primary" type="submit">{t("common.save")}</Button>
      </div>
    </form>
  );
}
