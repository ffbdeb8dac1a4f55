// What a model is promised, and whether it stays in memory.
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { usePoolPolicy } from "../api/queries";
import type { PoolModel } from "../api/types";
import { Button, ErrorNote, Field, Input } from "../ui/kit";

export function PolicyForm({ model }: { model: PoolModel }) {
  const { t } = useTranslation();
  const policy = usePoolPolicy();
  const [pinned, setPinned] = useState(model.pinned);
  const fields = [["ttft_s", 0.01], ["tpot_s", 0.001], ["weight", 0.1], ["min_resident_s", 1], ["idle_ttl_s", 1]] as const;
  return (
    <form className="space-y-3" onSubmit={(event) => {
      event.preventDefault();
      const form = new FormData(event.currentTarget);
      policy.mutate({ model: model.id, pinned, ...Object.fromEntries(fields.flatMap(([name]) => { const text = String(form.get(name) ?? ""); return text === "" ? [] : [[name, Number(text)]]; })) });
    }}>
      <div className="grid grid-cols-2 gap-3 sm:grid-cols-3 lg:grid-cols-5">
        {fields.map(([name, step]) => <Field key={name} label={t(`policy.${name}`)} help={t(`policyHelp.${name}`)}>{(id, note) => <Input id={id} aria-describedby={note} name={name} type="number" step="any" data-step={step} defaultValue={Number(model[name].toPrecision(6))} />}</Field>)}
      </div>
      <label className="flex items-center gap-2 text-sm"><input type="checkbox" className="accent-(--accent)" checked={pinned} onChange={(event) => setPinned(event.target.checked)} />{t("policy.pinned")}</label>
      {policy.error && <ErrorNote error={policy.error} />}
      <div className="flex items-center gap-3"><Button kind="primary" type="submit" busy={policy.isPending}>{t("common.apply")}</Button>{policy.isSuccess && <span role="status" className="text-sm text-good">{t("common.done")}</span>}</div>
    </form>
  );
}
