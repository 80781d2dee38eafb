import { Link } from "@tanstack/react-router";

import { Empty, Screen } from "../parts/basics";
import { t } from "../text";

export function Missing() {
  return <Screen title={t("missing")} name={t("missing")}><Empty icon="search" title={t("missing.words")}><p><Link to="/">{t("overview")}</Link></p></Empty></Screen>;
}
