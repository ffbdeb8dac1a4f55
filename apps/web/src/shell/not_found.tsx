import { useTranslation } from "react-i18next";
import { Link, useRouteError } from "react-router";
import { Button, Empty, errorText, Page } from "../ui/kit";

export function NotFound() {
  const { t } = useTranslation();
  return (
    <Page title={t("shell.notFound")}>
      <Empty title={t("shell.notFoundText")}><Link to="/chat" className="text-accent underline">{t("shell.toChat")}</Link></Empty>
    </Page>
  );
}

// A page that fell over, or one whose file is gone because the server was updated: a reload mends the latter.
export function Broken() {
  const { t } = useTranslation();
  const error = useRouteError();
  return (
    <Page title={t("shell.broken")}>
      <Empty title={errorText(error, t)}><Button kind="primary" onClick={() => location.reload()}>{t("shell.reload")}</Button></Empty>
    </Page>
  );
}
