// What an answer cost, or why it cost nothing.
import { useTranslation } from "react-i18next";
import type { Cost } from "../api/types";
import { shortAmount } from "../ui/money";

export function useCostText(): (cost: Cost) => string {
  const { t } = useTranslation();
  return (cost) => {
    switch (cost.billing) {
      case "unpriced": return t("cost.unpriced");
      case "free": return t("cost.free");
      case "waived": return t("cost.waived");
      default: return `${shortAmount(cost.amount)} ${cost.currency}`;
    }
  };
}

export function CostText({ cost }: { cost: Cost }) {
  const text = useCostText();
  return <span title={`${cost.amount} ${cost.currency}`}>{text(cost)}</span>;
}
