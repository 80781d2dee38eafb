// Recent tasks, always in sight at the foot of the page.

import { Link } from "@tanstack/react-router";
import { useState } from "react";

import { at, change, refusal, type Task } from "../api/client";
import { selectTasks, useLive } from "../api/live";
import { usePowers } from "../api/session";
import { duration, percent, t, told } from "../text";
import { When } from "./basics";
import { Icon } from "./icon";
import { toast } from "./toasts";

export function action(task: Task): string {
  return told("action", task.action, task.action);
}

export function isRunning(task: Task): boolean {
  return task.state === "running" || task.state === "queued";
}

export function Progress({ task }: { task: Task }) {
  if (!isRunning(task)) return null;
  const words = task.progress == null ? t("task.running") : percent(task.progress);
  return <progress aria-label={`${action(task)}: ${words}`} {...(task.progress != null && { value: task.progress })} max={1} />;
}

export function TaskState({ task }: { task: Task }) {
  return <span className={`task-state ${task.state}`}>{t(`task.${task.state}`)}</span>;
}

export function CancelTask({ task }: { task: Task }) {
  const { operate } = usePowers();
  if (!isRunning(task) || !operate) return null;
  const cancel = () => {
    change("DELETE", at("tasks", task.id)).catch((error: unknown) => toast("risk", t("task.cannot-cancel"), refusal(error).message));
  };
  return <button type="button" className="plain small" aria-label={`${t("cancel")}: ${action(task)} ${task.name ?? ""}`} onClick={cancel}><Icon name="close" size={12} />{t("cancel")}</button>;
}

export function Recent() {
  const tasks = useLive(selectTasks);
  const [open, setOpen] = useState(false);
  const running = tasks.filter(isRunning);
  const last = running[0] ?? tasks[0];
  return (
    <section className={open ? "recent open" : "recent"} aria-label={t("recent")}>
      <button type="button" className="recent-line" aria-expanded={open} onClick={() => setOpen(!open)}>
        <Icon name={open ? "down" : "up"} size={12} />
        <strong>{t("recent")}</strong>
        {running.length > 0 && <span className="count">{running.length}</span>}
        {last && !open && <span className="recent-last"><TaskState task={last} /> {action(last)} <bdi>{last.name}</bdi><Progress task={last} /></span>}
      </button>
      {open && (
        <div className="recent-list" tabIndex={0} role="group" aria-label={t("recent")}>
          {tasks.length === 0 && <p className="hint">{t("tasks.none")}</p>}
          {tasks.slice(0, 30).map((task) => (
            <div key={task.id} className="recent-task">
              <TaskState task={task} />
              <span className="grow">{action(task)} <bdi>{task.name}</bdi> <span className="hint"><bdi>{task.error?.detail ?? task.step}</bdi></span></span>
              <Progress task={task} /><CancelTask task={task} />
              <span className="hint nowrap">{task.ended ? duration(Date.parse(task.ended) - Date.parse(task.created)) : ""} <When time={task.created} /></span>
            </div>
          ))}
          <p><Link to="/tasks">{t("tasks.all")}</Link></p>
        </div>
      )}
    </section>
  );
}
