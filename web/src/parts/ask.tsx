// A question before something is removed or changed that has no form of its own.

import { type ReactNode, useState } from "react";

import { t } from "../text";
import { Dialog } from "./dialog";
import { Buttons, Input, useSending, Wrong } from "./form";

interface Props {
  title: string;
  words: ReactNode;
  go: string;
  /** What has to be typed where data is lost. */
  type?: string;
  do: () => Promise<unknown>;
  onClose: () => void;
}

export function Ask({ title, words, go, type, do: act, onClose }: Props) {
  const [typed, setTyped] = useState("");
  const { problem, busy, submit } = useSending(async () => {
    await act();
    onClose();
  });
  return (
    <Dialog title={title} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{words}</p>
        {type !== undefined && <Input label={t("type.name", { name: type })} value={typed} onChange={setTyped} autoFocus />}
        <Wrong problem={problem} />
        <Buttons go={go} busy={busy} risky disabled={type !== undefined && typed !== type} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
