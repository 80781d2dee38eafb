// Who may do what: users who show passwords, programs that show tokens.

import { useState } from "react";

import { at, change, type Schemas } from "../api/client";
import { type Account, queries, useTokens, useUsers } from "../api/queries";
import { ROLES, type Role } from "../api/session";
import { Ask } from "../parts/ask";
import { Card, Code, Labels, Loading, Problem, Screen, When } from "../parts/basics";
import { Dialog } from "../parts/dialog";
import { Area, Buttons, Check, Choice, Input, useSending, Wrong } from "../parts/form";
import { Icon } from "../parts/icon";
import { Menu } from "../parts/menu";
import { Table } from "../parts/table";
import { t } from "../text";
import { labelsOf, labelsText } from "./guest-dialogs";

type Asked = "user" | "token" | { edit: Account } | { user: string } | { token: string; name: string };

function roles() {
  return ROLES.map((role) => [role, t(`role.${role}`)] as const);
}

function reread(list: "users" | "tokens"): Promise<void> {
  return queries.invalidateQueries({ queryKey: [list] });
}

export function Access() {
  const users = useUsers();
  const tokens = useTokens();
  const [asked, setAsked] = useState<Asked>();
  const close = () => setAsked(undefined);
  return (
    <Screen title={t("access")} name={t("access")} under={t("access.under")}>
      <Problem error={users.error ?? tokens.error} />
      {users.isLoading && <Loading />}
      <Card title={t("users")} actions={<button type="button" className="primary" onClick={() => setAsked("user")}><Icon name="add" />{t("user.create")}</button>}>
        {(users.data ?? []).length === 0 ? <p className="hint">{t("users.teach")}</p> : (
          <Table
            label={t("users")} rows={users.data ?? []} id={(user) => user.id}
            columns={[
              { name: t("name"), main: true, of: (user) => <bdi>{user.name}</bdi> },
              { name: t("role"), of: (user) => t(`role.${user.role}`) },
              { name: t("bound"), of: (user) => (Object.keys(user.labels ?? {}).length ? <Labels labels={user.labels} /> : t("bound.not")) },
              { name: t("state"), of: (user) => (user.disabled ? <span className="risk-words">{t("user.disabled")}</span> : <span className="good-words">{t("user.enabled")}</span>) },
              { name: t("made"), of: (user) => <When time={user.created} /> },
              { name: "", of: (user) => <Menu label={t("more-of", { name: user.name })} className="plain" items={[{ text: t("edit"), icon: "edit", do: () => setAsked({ edit: user }) }, { text: t("remove"), icon: "remove", risky: true, do: () => setAsked({ user: user.name }) }]} /> },
            ]}
          />
        )}
      </Card>
      <Card title={t("tokens")} actions={<button type="button" onClick={() => setAsked("token")}><Icon name="key" />{t("token.create")}</button>}>
        {(tokens.data ?? []).length === 0 ? <p className="hint">{t("tokens.teach")}</p> : (
          <Table
            label={t("tokens")} rows={tokens.data ?? []} id={(token) => token.id}
            columns={[
              { name: t("name"), main: true, of: (token) => <bdi>{token.name}</bdi> },
              { name: t("role"), of: (token) => t(`role.${token.role}`) },
              { name: t("bound"), of: (token) => (Object.keys(token.labels ?? {}).length ? <Labels labels={token.labels} /> : t("bound.not")) },
              { name: t("expires"), of: (token) => (token.expires ? <When time={token.expires} /> : t("never")) },
              { name: t("made"), of: (token) => <When time={token.created} /> },
              { name: "", of: (token) => <Menu label={t("more-of", { name: token.name })} className="plain" items={[{ text: t("remove"), icon: "remove", risky: true, do: () => setAsked({ token: token.id, name: token.name }) }]} /> },
            ]}
          />
        )}
      </Card>
      {asked === "user" && <UserDialog onClose={close} />}
      {asked === "token" && <TokenDialog onClose={close} />}
      {typeof asked === "object" && "edit" in asked && <UserDialog user={asked.edit} onClose={close} />}
      {typeof asked === "object" && "user" in asked && <Ask title={t("remove.title", { name: asked.user })} words={t("user.remove.words")} go={t("remove")} onClose={close} do={() => change("DELETE", at("users", asked.user)).then(() => reread("users"))} />}
      {typeof asked === "object" && "token" in asked && <Ask title={t("remove.title", { name: asked.name })} words={t("token.remove.words")} go={t("remove")} onClose={close} do={() => change("DELETE", at("tokens", asked.token)).then(() => reread("tokens"))} />}
    </Screen>
  );
}

const FIELDS = ["/name", "/password", "/role", "/labels"];

function UserDialog({ user, onClose }: { user?: Account; onClose: () => void }) {
  const [name, setName] = useState<string>(user?.name ?? "");
  const [password, setPassword] = useState("");
  const [role, setRole] = useState<Role>(user?.role ?? "viewer");
  const [labels, setLabels] = useState(labelsText(user?.labels));
  const [disabled, setDisabled] = useState(user?.disabled ?? false);
  const { problem, busy, submit } = useSending(async () => {
    const bound = labelsOf(labels);
    if (user) await change("PATCH", at("users", user.name), { body: { role, labels: bound, disabled, ...(password && { password }) } });
    else await change("POST", at("users"), { body: { name, password, role, labels: bound } });
    await reread("users");
    onClose();
  });
  return (
    <Dialog title={user ? t("edit.title", { name: user.name }) : t("user.create")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        {!user && <Input label={t("name")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />}
        <Input label={t(user ? "password.new" : "password")} type="password" value={password} onChange={setPassword} autoComplete="new-password" hint={t(user ? "password.keep" : "password.hint")} error={problem?.at("/password")} required={!user} />
        <Choice label={t("role")} value={role} onChange={setRole} options={roles()} hint={t(`role.${role}.words`)} error={problem?.at("/role")} />
        <Area label={t("bound")} value={labels} onChange={setLabels} rows={2} hint={t("bound.hint")} error={problem?.at("/labels")} />
        {user && <Check label={t("user.disable")} checked={disabled} onChange={setDisabled} />}
        <Wrong problem={problem} besides={FIELDS} />
        <Buttons go={t(user ? "save" : "user.create")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}

function TokenDialog({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>("viewer");
  const [days, setDays] = useState("90");
  const [labels, setLabels] = useState("");
  const [made, setMade] = useState<Schemas["MadeToken"]>();
  const { problem, busy, submit } = useSending(async () => {
    const body = { name, role, labels: labelsOf(labels), ...(days && { days: Number(days) }) };
    setMade(await change<Schemas["MadeToken"]>("POST", at("tokens"), { body }));
    await reread("tokens");
  });
  if (made) {
    return (
      <Dialog title={t("token.made")} onClose={onClose} wide>
        <p>{t("token.made.words")}</p>
        <Code label={t("token.secret")} text={made.secret} />
        <Code label={t("api.call")} text={`curl -H 'Authorization: Bearer ${made.secret}' ${location.origin}/api/v1/vms`} />
        <div className="buttons"><button type="button" className="primary" onClick={onClose}>{t("close")}</button></div>
      </Dialog>
    );
  }
  return (
    <Dialog title={t("token.create")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("token.for")} value={name} onChange={setName} error={problem?.at("/name")} required autoFocus />
        <Choice label={t("role")} value={role} onChange={setRole} options={roles()} hint={t(`role.${role}.words`)} error={problem?.at("/role")} />
        <Input label={t("token.days")} type="number" min={1} value={days} onChange={setDays} hint={t("token.days.hint")} error={problem?.at("/days")} />
        <Area label={t("bound")} value={labels} onChange={setLabels} rows={2} hint={t("bound.hint")} error={problem?.at("/labels")} />
        <Wrong problem={problem} besides={["/name", "/role", "/days", "/labels"]} />
        <Buttons go={t("token.create")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
