// Light or dark: as the system says, or as somebody has chosen here.

export type Theme = "auto" | "light" | "dark";

export function theme(): Theme {
  const stored = localStorage.getItem("theme");
  return stored === "light" || stored === "dark" ? stored : "auto";
}

export function chooseTheme(next: Theme): void {
  localStorage.setItem("theme", next);
  apply();
  for (const listener of listeners) listener();
}

export function apply(): void {
  const chosen = theme();
  if (chosen === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = chosen;
}

const listeners = new Set<() => void>();

/** Calls `changed` whenever it becomes light or dark; gives what ends that. */
export function onTheme(changed: () => void): () => void {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  listeners.add(changed);
  system.addEventListener("change", changed);
  return () => {
    listeners.delete(changed);
    system.removeEventListener("change", changed);
  };
}

/** What these colours of the page are at the moment: a canvas does not know them by name. */
export function colours<N extends string>(place: HTMLElement, names: readonly N[]): Record<N, string> {
  const probe = document.createElement("i");
  place.append(probe);
  const found = names.map((name) => {
    probe.style.color = `var(${name})`;
    return [name, getComputedStyle(probe).color] as const;
  });
  probe.remove();
  return Object.fromEntries(found) as Record<N, string>;
}
