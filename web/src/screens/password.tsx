// A new password of one's own.

import { useState } from "react";

import { at, change } from "../api/client";
import { forget } from "../api/live";
import { queries } from "../api/queries";
import { Dialog } from "../parts/dialog";
import { Buttons, Input, useSending, Wrong } from "../parts/form";
import { toast } from "../parts/toasts";
import { t } from "../text";

export function PasswordDialog({ onClose }: { onClose: () => void }) {
  const [old, setOld] = useState("");
  const [fresh, setFresh] = useState("");
  const { problem, busy, submit } = useSending(async () => {
    await change("POST", at("session", "password"), { body: { old, new: fresh } });
    toast("good", t("password.changed"));
    queries.clear();
    forget();
  });
  return (
    <Dialog title={t("password.change")} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <Input label={t("password.old")} type="password" value={old} onChange={setOld} autoComplete="current-password" required />
        <Input label={t("password.new")} type="password" value={fresh} onChange={setFresh} autoComplete="new-password" hint={t("password.hint")} error={problem?.at("/new")} required />
        <Wrong problem={problem} besides={["/new"]} />
        <Buttons go={t("password.change")} busy={busy} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
