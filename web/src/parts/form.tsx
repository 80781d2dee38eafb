// Fields of forms. What the daemon finds wrong stands beside the field that it is about.

import { type FormEvent, type ReactNode, useId, useState } from "react";

import { type Refusal, refusal } from "../api/client";
import { t } from "../text";

interface FieldProps {
  label: string;
  hint?: ReactNode;
  error?: string | undefined;
  children: (wiring: { id: string; "aria-describedby"?: string; "aria-invalid"?: true }) => ReactNode;
}

export function Field({ label, hint, error, children }: FieldProps) {
  const id = useId();
  const about = [hint ? `${id}-hint` : "", error ? `${id}-error` : ""].filter(Boolean).join(" ");
  return (
    <div className={error ? "field wrong" : "field"}>
      <label htmlFor={id}>{label}</label>
      {children({ id, ...(about && { "aria-describedby": about }), ...(error && { "aria-invalid": true as const }) })}
      {hint && <p id={`${id}-hint`} className="hint">{hint}</p>}
      {error && <p id={`${id}-error`} className="error" role="alert">{error}</p>}
    </div>
  );
}

interface InputProps {
  label: string;
  value: string;
  onChange: (value: string) => void;
  hint?: ReactNode;
  error?: string | undefined;
  type?: "text" | "password" | "number" | "search";
  required?: boolean;
  placeholder?: string;
  list?: readonly string[];
  autoFocus?: boolean;
  autoComplete?: string;
  min?: number;
  max?: number;
}

export function Input({ label, value, onChange, hint, error, list, ...rest }: InputProps) {
  const id = useId();
  return (
    <Field label={label} hint={hint} error={error}>
      {(wiring) => (
        <>
          <input
            {...wiring} {...rest} value={value} onChange={(e) => onChange(e.target.value)} spellCheck={false} autoCapitalize="off"
            autoComplete={rest.autoComplete ?? "off"} list={list ? `${id}-list` : undefined}
          />
          {list && <datalist id={`${id}-list`}>{list.map((one) => <option key={one} value={one} />)}</datalist>}
        </>
      )}
    </Field>
  );
}

export function Area({ label, value, onChange, hint, error, rows = 4, mono = false }: InputProps & { rows?: number; mono?: boolean }) {
  return (
    <Field label={label} hint={hint} error={error}>
      {(wiring) => <textarea {...wiring} className={mono ? "mono" : ""} rows={rows} value={value} spellCheck={false} onChange={(e) => onChange(e.target.value)} />}
    </Field>
  );
}

interface ChoiceProps<T extends string> {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  onChange: (value: T) => void;
  hint?: ReactNode;
  error?: string | undefined;
}

export function Choice<T extends string>({ label, value, options, onChange, hint, error }: ChoiceProps<T>) {
  return (
    <Field label={label} hint={hint} error={error}>
      {(wiring) => (
        <select {...wiring} value={value} onChange={(e) => onChange(e.target.value as T)}>
          {options.map(([key, text]) => <option key={key} value={key}>{text}</option>)}
        </select>
      )}
    </Field>
  );
}

export function Check({ label, checked, onChange, hint }: { label: string; checked: boolean; onChange: (on: boolean) => void; hint?: string }) {
  const id = useId();
  return (
    <div className="check">
      <input id={id} type="checkbox" checked={checked} onChange={(e) => onChange(e.target.checked)} aria-describedby={hint ? `${id}-hint` : undefined} />
      <label htmlFor={id}>{label}</label>
      {hint && <p id={`${id}-hint`} className="hint">{hint}</p>}
    </div>
  );
}

/** What is wrong and belongs to no field that is shown. */
export function Wrong({ problem, besides = [] }: { problem: Refusal | undefined; besides?: readonly string[] }) {
  const left = problem?.besides(besides) ?? [];
  if (left.length === 0) return null;
  return <div className="notice risk" role="alert">{left.map((one) => <p key={one}><bdi>{one}</bdi></p>)}</div>;
}

/** A form whose sending may be refused. */
export function useSending(send: () => Promise<void>) {
  const [problem, setProblem] = useState<Refusal>();
  const [busy, setBusy] = useState(false);
  const submit = (event?: FormEvent) => {
    event?.preventDefault();
    setBusy(true);
    setProblem(undefined);
    send().catch((error: unknown) => setProblem(refusal(error))).finally(() => setBusy(false));
  };
  return { problem, busy, submit };
}

interface ButtonsProps {
  go: string;
  busy: boolean;
  risky?: boolean;
  disabled?: boolean;
  onCancel: () => void;
}

export function Buttons({ go, busy, onCancel, risky = false, disabled = false }: ButtonsProps) {
  return (
    <div className="buttons">
      <button type="button" onClick={onCancel}>{t("cancel")}</button>
      <button type="submit" className={risky ? "risky" : "primary"} disabled={busy || disabled} aria-busy={busy}>{go}</button>
    </div>
  );
}
