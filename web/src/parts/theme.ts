// Light or dark: as the system says, or as somebody has chosen here.

export type Theme = "auto" | "light" | "dark";

export function theme(): Theme {
  const stored = localStorage.getItem("theme");
  return stored === "light" || stored === "dark" ? stored : "auto";
}

export function chooseTheme(next: Theme): void {
  localStorage.setItem("theme", next);
  apply();
}

export function apply(): void {
  const chosen = theme();
  if (chosen === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = chosen;
}

export function isDark(): boolean {
  const chosen = theme();
  return chosen === "auto" ? window.matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
}
