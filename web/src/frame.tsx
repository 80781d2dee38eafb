// What stands around every screen: the navigation, the bar with the search, and the tasks at the foot.

import { Link, Outlet, useRouterState } from "@tanstack/react-router";
import { useEffect, useState } from "react";

import { onTaskEnd, selectLink, selectVms, useLive } from "./api/live";
import { logOut, usePowers } from "./api/session";
import { Bell } from "./parts/alarm";
import { Icon } from "./parts/icon";
import { Menu } from "./parts/menu";
import { Palette } from "./parts/palette";
import { PLACES } from "./parts/places";
import { action, Recent } from "./parts/recent";
import { chooseTheme, theme } from "./parts/theme";
import { Toasts, toast } from "./parts/toasts";
import { LogIn } from "./screens/login";
import { PasswordDialog } from "./screens/password";
import { chooseLanguage, language, number, t } from "./text";

export function Frame() {
  const link = useLive(selectLink);
  const [palette, setPalette] = useState(false);
  const [nav, setNav] = useState(false);
  const path = useRouterState({ select: (state) => state.location.pathname });

  useEffect(() => setNav(false), [path]);
  useEffect(() => {
    const keys = (event: KeyboardEvent) => {
      // In a console the guest has it: it cuts a line there.
      const guests = event.target instanceof Element && event.target.closest(".terminal-place") !== null;
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k" && !guests) {
        event.preventDefault();
        setPalette((open) => !open);
      }
    };
    window.addEventListener("keydown", keys, true);
    return () => window.removeEventListener("keydown", keys, true);
  }, []);
  useEffect(() => onTaskEnd((task) => {
    if (task.state === "failed") toast("risk", `${action(task)} ${task.name ?? ""}: ${t("task.failed")}`, task.error?.detail);
  }), []);

  if (link === "refused") return <LogIn />;
  return (
    <div className="frame">
      <a className="skip" href="#main">{t("skip")}</a>
      <Navigation open={nav} onClose={() => setNav(false)} />
      <header className="top">
        <button type="button" className="plain round only-narrow" aria-label={t("navigation")} aria-expanded={nav} onClick={() => setNav(!nav)}><Icon name="menu" /></button>
        <button type="button" className="search-button" onClick={() => setPalette(true)}>
          <Icon name="search" /><span>{t("search.everything")}</span><kbd>Ctrl K</kbd>
        </button>
        <span className={`link ${link}`} role="status">{t(`link.${link}`)}</span>
        <Bell />
        <Person />
      </header>
      {link === "lost" && <div className="offline" role="alert"><Icon name="warning" />{t("lost.words")}</div>}
      <main id="main" tabIndex={-1}><Outlet /></main>
      <Recent />
      <Toasts />
      {palette && <Palette onClose={() => setPalette(false)} />}
    </div>
  );
}

const GROUPS = ["use", "have", "know"] as const;

function Navigation({ open, onClose }: { open: boolean; onClose: () => void }) {
  const powers = usePowers();
  const count = useLive(selectVms).length;
  return (
    <>
      {open && <div className="nav-shade" onClick={onClose} />}
      <nav className={open ? "nav open" : "nav"} aria-label={t("navigation")}>
        <Link to="/" className="brand"><img src="/icon.svg" alt="" width="24" height="24" />Tessera</Link>
        {GROUPS.map((group) => (
          <div key={group} className="nav-group">
            <p>{t(`nav.${group}`)}</p>
            {PLACES.filter((one) => one.group === group && one.may(powers)).map((one) => (
              <Link key={one.to} to={one.to} activeOptions={{ exact: one.to === "/" }}>
                <Icon name={one.icon} />{t(one.name)}{one.to === "/guests" && count > 0 && <span className="count">{number(count)}</span>}
              </Link>
            ))}
          </div>
        ))}
      </nav>
    </>
  );
}

function Person() {
  const { session } = usePowers();
  const [password, setPassword] = useState(false);
  const [, again] = useState(0);
  const next = theme() === "auto" ? "light" : theme() === "light" ? "dark" : "auto";
  const items = [
    { text: t(`theme.${next}`), icon: next === "dark" ? "moon" as const : "sun" as const, do: () => { chooseTheme(next); again((n) => n + 1); } },
    { text: t("language.other"), icon: "language" as const, do: () => chooseLanguage(language === "en" ? "zh-CN" : "en") },
    ...(session?.user ? [{ text: t("password.change"), icon: "key" as const, do: () => setPassword(true) }] : []),
    ...(session?.expires ? [{ text: t("logout"), icon: "leave" as const, do: () => { logOut().catch((error: Error) => toast("risk", error.message)); } }] : []),
  ];
  return (
    <>
      <Menu label={t("you")} className="person" items={items}>
        <Icon name="access" /><span className="person-name"><bdi>{session?.actor ?? ""}</bdi><small>{session && t(`role.${session.role}`)}</small></span>
      </Menu>
      {password && <PasswordDialog onClose={() => setPassword(false)} />}
    </>
  );
}
