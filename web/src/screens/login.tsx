// Where somebody whom the host does not know says who they are.

import { useEffect, useState } from "react";

import { logIn } from "../api/session";
import { Code } from "../parts/basics";
import { Input, useSending, Wrong } from "../parts/form";
import { chooseLanguage, language, t } from "../text";

export function LogIn() {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const { problem, busy, submit } = useSending(() => logIn(user, password));
  useEffect(() => { document.title = `${t("login")} · Tessera`; }, []);
  return (
    <main className="login" id="main">
      <form className="login-card" onSubmit={submit}>
        <h1><img src="/icon.svg" alt="" width="32" height="32" />Tessera</h1>
        <Input label={t("user.name")} value={user} onChange={setUser} autoComplete="username" autoFocus required />
        <Input label={t("password")} type="password" value={password} onChange={setPassword} autoComplete="current-password" required />
        <Wrong problem={problem} />
        <button type="submit" className="primary wide" disabled={busy} aria-busy={busy}>{t("login")}</button>
        <details>
          <summary>{t("login.no-password")}</summary>
          <p className="hint">{t("login.link")}</p>
          <Code label={t("command")} text="tessera host link" />
        </details>
        <button type="button" className="plain" lang={language === "en" ? "zh-CN" : "en"} onClick={() => chooseLanguage(language === "en" ? "zh-CN" : "en")}>{t("language.other")}</button>
      </form>
    </main>
  );
}
