// What stands around every screen: the bar with the name, the state of the connection and the language.

import { Link, Outlet } from "@tanstack/react-router";

import { useGuests } from "./api/guests";
import { switchLanguage, t } from "./text";

export function Frame() {
  const { link } = useGuests();
  return (
    <>
      <a className="skip" href="#main">{t("skip")}</a>
      <header>
        <Link to="/" className="brand"><img src="/icon.svg" alt="" width="18" height="18" />Tessera</Link>
        <nav><Link to="/guests">{t("guests")}</Link></nav>
        <span className={`link ${link}`} role="status">{t(link)}</span>
        <button type="button" className="quiet" onClick={switchLanguage}>{t("language")}</button>
      </header>
      <main id="main" tabIndex={-1}>
        {link === "refused" ? <section className="empty"><h1>{t("refused")}</h1><p>{t("login")}</p></section> : <Outlet />}
      </main>
    </>
  );
}
