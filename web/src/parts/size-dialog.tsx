// How large something is to become.

import { useState } from "react";

import { bytes, t } from "../text";
import { Dialog } from "./dialog";
import { Buttons, Input, useSending, Wrong } from "./form";

interface Props {
  title: string;
  words: string;
  go: string;
  /** How large it is, if that is known. */
  now: number | string | undefined;
  send: (size: string) => Promise<unknown>;
  onClose: () => void;
}

export function SizeDialog({ title, words, go, now, send, onClose }: Props) {
  const [typed, setTyped] = useState<string>();
  const size = typed ?? (now === undefined ? "" : bytes(now).replace(/\s|,/g, ""));
  const { problem, busy, submit } = useSending(async () => {
    await send(size);
    onClose();
  });
  return (
    <Dialog title={title} onClose={onClose}>
      <form className="dialog-form" onSubmit={submit}>
        <p>{words}</p>
        <Input label={t("size")} value={size} onChange={setTyped} hint={t("size.hint")} error={problem?.at("/size")} autoFocus />
        <Wrong problem={problem} besides={["/size"]} />
        <Buttons go={go} busy={busy} disabled={size === ""} onCancel={onClose} />
      </form>
    </Dialog>
  );
}
