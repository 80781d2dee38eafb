// What somebody asked for, and how it ended.

import { useState } from "react";

import { selectTasks, useLive } from "../api/live";
import { Empty, Screen, When } from "../parts/basics";
import { action, CancelTask, isRunning, Progress, TaskState } from "../parts/recent";
import { Table } from "../parts/table";
import { duration, t } from "../text";
import { Target } from "../parts/event-line";

const FILTERS = ["all", "running", "failed"] as const;

export function Tasks() {
  const tasks = useLive(selectTasks);
  const [filter, setFilter] = useState<(typeof FILTERS)[number]>("all");
  const shown = tasks.filter((task) => filter === "all" || (filter === "running" ? isRunning(task) : task.state === "failed"));
  return (
    <Screen
      title={t("tasks")} name={t("tasks")} under={t("tasks.under")}
      actions={<div className="segments" role="group" aria-label={t("filter")}>{FILTERS.map((one) => <button key={one} type="button" aria-pressed={one === filter} onClick={() => setFilter(one)}>{t(`tasks.filter.${one}`)}</button>)}</div>}
    >
      {shown.length === 0 ? <Empty icon="tasks" title={t(tasks.length ? "nothing-found" : "tasks.none")}><p>{t("tasks.teach")}</p></Empty> : (
        <Table
          label={t("tasks")} rows={shown.slice(0, 300)} id={(task) => task.id}
          columns={[
            { name: t("action"), main: true, of: (task) => action(task) },
            { name: t("target"), of: (task) => <Target target={task.target} name={task.name} /> },
            { name: t("state"), of: (task) => <span className="task-cell"><TaskState task={task} /><Progress task={task} />{(task.error?.detail ?? task.step) && <span className="hint"><bdi>{task.error?.detail ?? task.step}</bdi></span>}</span> },
            { name: t("actor"), of: (task) => <bdi>{task.actor}</bdi> },
            { name: t("begun"), of: (task) => <When time={task.created} /> },
            { name: t("took"), number: true, of: (task) => (task.ended ? duration(Date.parse(task.ended) - Date.parse(task.created)) : "") },
            { name: "", of: (task) => <CancelTask task={task} /> },
          ]}
        />
      )}
    </Screen>
  );
}
